"""How to reach a Kafka broker and an S3 store: what the settings say, without importing either client.

Secrets are read from their files at each connection, so a rotated one needs no restart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KafkaAccess:
    """Who we are to a broker, whom we trust, and how a topic that is missing is made."""

    prefix: str = ""
    """Stands before the names of all topics and groups there, and before none here."""
    member: str = ""
    """Names this process and those that come after it in its place: such a one takes over its partitions at once, where a
    stranger waits until its session is over. Empty names nobody."""
    user: str = ""
    password_file: str = ""
    mechanism: str = "SCRAM-SHA-512"
    tls: bool = False
    ca_file: str = ""
    """PEM authorities; empty trusts those of the system."""
    client_cert_file: str = ""
    client_key_file: str = ""
    create_topics: bool = True
    partitions: int = 4
    replicas: int = -1
    """-1 leaves it to the broker's default."""
    retention_hours: float = 168.0


@dataclass(frozen=True)
class MinioAccess:
    """Who we are to an S3 store, and whom we trust."""

    access_key_file: str = ""
    secret_key_file: str = ""
    ca_file: str = ""
    """PEM authorities; empty trusts those of the system."""
    region: str = "us-east-1"
    create_bucket: bool = True
