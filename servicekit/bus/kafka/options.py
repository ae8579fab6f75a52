"""Options of a Kafka bus, without importing the client.

Secrets are read from their files at each connection, so a rotated secret needs no restart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KafkaOptions:
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
