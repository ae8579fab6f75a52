"""Settings come from the environment alone, prefix MILLSTREAM_, read once, frozen; an unknown name is refused.

Secrets are never in variables, only in files that variables name.
"""

import os
import re
import socket
import sys
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from millstream.channel import Credentials
from servicekit.blobs.s3.options import MinioOptions
from servicekit.bus.kafka.options import KafkaOptions
from servicekit.files import read_file

PREFIX = "MILLSTREAM_"


class Settings(BaseSettings):
    """What every service reads. A service's own settings.py adds its variables and its ports."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    blobs: str = Field(
        "directory:.millstream/blobs", description="object store: directory:PATH or minio:http(s)://HOST:PORT/BUCKET"
    )
    bus: str = Field("sqlite:.millstream/bus.sqlite", description="event bus: sqlite:PATH or kafka:HOST:PORT,HOST:PORT")
    kafka_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9._-]{0,100}$",
        description="put before the names of all topics and groups, for brokers that platforms share",
    )
    kafka_user: str = Field("", description="name for SASL; empty logs in nowhere")
    kafka_password_file: str = Field("", description="file with the password of that name")
    kafka_mechanism: str = Field(
        "SCRAM-SHA-512", pattern="^(SCRAM-SHA-512|SCRAM-SHA-256|PLAIN)$", description="SASL mechanism"
    )
    kafka_tls: bool = Field(False, description="speak TLS to the brokers (a CA or client certificate file implies it)")
    kafka_ca_file: str = Field("", description="PEM authorities for brokers; empty trusts the system's")
    kafka_client_cert_file: str = Field("", description="PEM certificate shown to brokers (mTLS)")
    kafka_client_key_file: str = Field("", description="PEM key of that certificate")
    kafka_create_topics: bool = Field(True, description="make topics that are missing; else they must be there")
    kafka_partitions: int = Field(4, ge=1, description="partitions of a topic that is made")
    kafka_replicas: int = Field(-1, ge=-1, description="replicas of a topic that is made; -1: the broker's default")
    kafka_retention_hours: float = Field(168.0, gt=0, description="how long a topic that is made keeps messages")
    minio_access_key_file: str = Field("", description="file with the access key of the S3 store")
    minio_secret_key_file: str = Field("", description="file with its secret key")
    minio_ca_file: str = Field("", description="PEM authorities for the S3 store; empty trusts the system's")
    minio_region: str = Field("us-east-1", description="region of the S3 store")
    minio_create_bucket: bool = Field(True, description="make the bucket if it is missing; else it must be there")
    listen: str = Field("127.0.0.1:0", description="host:port of the gRPC server")
    metrics_listen: str = Field("", description="host:port of /metrics; empty shows none")
    log_level: str = Field(
        "INFO", pattern="(?i)^(debug|info|warning|error)$", description="DEBUG, INFO, WARNING or ERROR"
    )
    resync_seconds: float = Field(30.0, gt=0, description="time between two looks at all that should be")
    drain_seconds: float = Field(10.0, ge=0, description="how long calls in flight may go on after SIGTERM")
    recipes: str = Field("recipes", description="packages whose folders are recipes, with commas between")
    tls_cert_file: str = Field("", description="PEM certificate of the server; empty serves plaintext")
    tls_key_file: str = Field("", description="PEM key of the server")
    tls_client_ca_file: str = Field("", description="PEM authorities for callers' certificates: asks for mTLS")
    tls_ca_file: str = Field("", description="PEM authorities that calls to other services trust: asks for TLS")
    tls_client_cert_file: str = Field("", description="PEM certificate shown to other services (mTLS)")
    tls_client_key_file: str = Field("", description="PEM key of that certificate")
    token_file: str = Field("", description="file with the bearer token sent to other services")
    tokens_file: str = Field(
        "", description="file of accepted tokens: `token name role` a line; empty accepts everybody"
    )

    @classmethod
    def read(cls) -> Self:
        """The settings of this process. Ends it with exit code 2 and one clear text where the environment is wrong.

        `--check` among the arguments prints the settings as lines `NAME=value` and ends the process.
        """
        try:
            unknown = sorted(set(cls._named()) - set(cls.variables()))
            if unknown:
                raise SystemExit(
                    f"unknown setting {', '.join(unknown)}: this service reads {', '.join(cls.variables())}"
                )
            settings = cls()
        except ValidationError as error:
            lines = [f"{PREFIX}{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()]
            print("\n".join(lines), file=sys.stderr)
            raise SystemExit(2) from None
        except SystemExit as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from None
        if "--check" in sys.argv[1:]:
            for name, field in cls.model_fields.items():
                print(f"{PREFIX}{name.upper()}={getattr(settings, name)}  # {field.description}")
            raise SystemExit(0)
        return settings

    @classmethod
    def variables(cls) -> list[str]:
        """The names of all variables that this service reads."""
        return [f"{PREFIX}{name.upper()}" for name in cls.model_fields]

    @staticmethod
    def _named() -> list[str]:
        return [name for name in os.environ if name.upper().startswith(PREFIX)]

    def kafka(self) -> KafkaOptions:
        """How to reach the brokers that `bus` names."""
        return KafkaOptions(
            member=self._member(),
            prefix=self.kafka_prefix,
            user=self.kafka_user,
            password_file=self.kafka_password_file,
            mechanism=self.kafka_mechanism,
            tls=self.kafka_tls or bool(self.kafka_ca_file or self.kafka_client_cert_file),
            ca_file=self.kafka_ca_file,
            client_cert_file=self.kafka_client_cert_file,
            client_key_file=self.kafka_client_key_file,
            create_topics=self.kafka_create_topics,
            partitions=self.kafka_partitions,
            replicas=self.kafka_replicas,
            retention_hours=self.kafka_retention_hours,
        )

    def _member(self) -> str:
        """Host and address: no two processes have both at once, and the next process in this one's place has the same."""
        chosen_by_system = self.listen.endswith(":0")
        return "" if chosen_by_system else re.sub("[^A-Za-z0-9]+", "-", f"{socket.gethostname()}-{self.listen}")

    def minio(self) -> MinioOptions:
        """How to reach the S3 store that `blobs` names."""
        return MinioOptions(
            access_key_file=self.minio_access_key_file,
            secret_key_file=self.minio_secret_key_file,
            ca_file=self.minio_ca_file,
            region=self.minio_region,
            create_bucket=self.minio_create_bucket,
        )

    def credentials(self) -> Credentials:
        """What calls to other services show and trust."""
        token = read_file(self.token_file).decode().strip() if self.token_file else ""
        return Credentials(token, self.tls_ca_file, self.tls_client_cert_file, self.tls_client_key_file)
