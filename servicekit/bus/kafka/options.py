"""Options of a Kafka bus (`MILLSTREAM_KAFKA_…`), without importing the client.

Secrets stay in files, which each connection reads again: a rotated secret needs no restart.
"""

from pydantic import BaseModel, ConfigDict, Field


class KafkaOptions(BaseModel):
    """Credentials for the brokers, the authorities to trust, and how missing topics are created."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="prefix of all topics and groups, for brokers that several platforms share",
    )
    member: str = Field(
        "",
        description="static group member (group.instance.id): a process that replaces another takes over its "
        "partitions at once; empty: host name and listening address",
    )
    user: str = Field("", description="SASL user name; empty: no login")
    password_file: str = Field("", description="file with the password of that user")
    mechanism: str = Field(
        "SCRAM-SHA-512", pattern="^(SCRAM-SHA-512|SCRAM-SHA-256|PLAIN)$", description="SASL mechanism"
    )
    tls: bool = Field(False, description="use TLS (implied by a CA or client certificate file)")
    ca_file: str = Field("", description="PEM authorities for brokers; empty trusts the system's")
    client_cert_file: str = Field("", description="PEM client certificate (mTLS)")
    client_key_file: str = Field("", description="PEM key of that certificate")
    create_topics: bool = Field(True, description="create missing topics; false: they must exist")
    partitions: int = Field(4, ge=1, description="partitions of a topic that is created")
    replicas: int = Field(-1, ge=-1, description="replicas of a topic that is created; -1: the broker's default")
    retention_hours: float = Field(168.0, gt=0, description="how long a topic that is created keeps messages")

    @property
    def uses_tls(self) -> bool:
        """Whether connections use TLS: set, or implied by a certificate file."""
        return self.tls or bool(self.ca_file or self.client_cert_file)
