"""Settings: environment variables with the prefix MILLSTREAM_, read once and frozen; unknown names are an error.

Secrets are never in variables, only in files that variables name.
"""

import argparse
import os
import re
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self

from pydantic import BaseModel, Field, PrivateAttr, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from millstream.credentials import Credentials
from millstream.defaults import HOST
from millstream.errors import InvalidArgument
from servicekit.blobs.s3.options import MinioOptions
from servicekit.bus.kafka.options import KafkaOptions
from servicekit.runtime.service_links import service_links
from servicekit.work.resync import FULL_RESYNC_SECONDS

PREFIX = "MILLSTREAM_"
_NEEDED_FOR_TLS = ("tls_cert_file", "tls_key_file", "tls_ca_file")
_TLS = (*_NEEDED_FOR_TLS, "tls_client_ca_file", "tls_client_cert_file", "tls_client_key_file")


class Variable(NamedTuple):
    """One environment variable of a service: `path` leads from the settings to its value."""

    name: str
    path: tuple[str, ...]
    field: FieldInfo


class Settings(BaseSettings):
    """The settings of every service. A service's settings.py adds its own variables and its ports.

    A group of options is a nested model: `MILLSTREAM_KAFKA_USER` is `settings.kafka.user`.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1, frozen=True, extra="forbid"
    )

    blobs: str = Field(
        "directory:.millstream/blobs", description="object store: directory:PATH or minio:http(s)://HOST:PORT/BUCKET"
    )
    bus: str = Field("sqlite:.millstream/bus.sqlite", description="event bus: sqlite:PATH or kafka:HOST:PORT,HOST:PORT")
    kafka: KafkaOptions = Field(default_factory=KafkaOptions, description="options of the Kafka bus")
    minio: MinioOptions = Field(default_factory=MinioOptions, description="options of the S3 store")
    listen: str = Field(f"{HOST}:0", description="host:port of the gRPC server")
    metrics_listen: str = Field("", description="host:port of /metrics; empty: no metrics")
    log_level: str = Field(
        "INFO", pattern="(?i)^(debug|info|warning|error)$", description="DEBUG, INFO, WARNING or ERROR"
    )
    resync_seconds: float = Field(30.0, gt=0, description="seconds between two resyncs, which list what is open")
    full_resync_seconds: float = Field(
        FULL_RESYNC_SECONDS, gt=0, description="seconds between two resyncs in full, which compare all that is stored"
    )
    drain_seconds: float = Field(10.0, ge=0, description="seconds that calls in flight have to finish after SIGTERM")
    concurrent_calls: int = Field(2000, ge=1, description="most calls in progress; more are refused and may be retried")
    connections: int = Field(1000, ge=1, description="most connections to the gRPC server; more are closed at once")
    connection_streams: int = Field(1000, ge=1, description="most calls in progress on one connection; more wait")
    connection_idle_seconds: float = Field(
        300.0, gt=0, description="seconds without a call after which a connection is closed; clients open it again"
    )
    connection_age_seconds: float = Field(
        86400.0,
        gt=0,
        description="seconds after which a connection takes no new call; those in progress have an hour more",
    )
    recipes: str = Field("recipes", description="packages whose folders are recipes, separated by commas")
    tls_cert_file: str = Field("", description="PEM certificate of the server; empty: plaintext")
    tls_key_file: str = Field("", description="PEM key of the server")
    tls_client_ca_file: str = Field("", description="PEM authorities for clients' certificates; set: requires mTLS")
    tls_ca_file: str = Field("", description="PEM authorities for other services' certificates; set: uses TLS")
    tls_client_cert_file: str = Field("", description="PEM client certificate for other services (mTLS)")
    tls_client_key_file: str = Field("", description="PEM key of that certificate")
    token_file: str = Field("", description="file with the bearer token sent to other services")
    tokens_file: str = Field(
        "", description="file of accepted tokens, one `token name role` a line; empty: no authentication"
    )
    _ignored: list[str] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        """TLS by half would be plaintext without a word, on one side of the calls or the other."""
        given = {name for name in _TLS if getattr(self, name)}
        missing = [f"{PREFIX}{name.upper()}" for name in _NEEDED_FOR_TLS if name not in given]
        if bool(self.tls_client_cert_file) != bool(self.tls_client_key_file):
            missing.append(f"both {PREFIX}TLS_CLIENT_CERT_FILE and {PREFIX}TLS_CLIENT_KEY_FILE, or neither")
        if given and missing:
            raise ValueError(f"TLS is set by half, and the other half would go in clear: set {', '.join(missing)} too")
        return self

    @classmethod
    def read(cls, arguments: Sequence[str] = ()) -> Self:
        """The settings of this process, whose files are from now on for its user alone (umask).

        Ends it with exit code 2 and one line for each error.

        `arguments` is the command line: `--check` prints the settings as lines `NAME=value` and ends the process; any
        other argument is wrong usage.

        Variables that the cluster has injected (service_links.py) leave the environment, and are `ignored`.
        """
        options = cls._parser().parse_args(arguments)
        ignored = service_links(os.environ, PREFIX)
        for name in ignored:
            del os.environ[name]
        try:
            known = [variable.name for variable in cls.variables()]
            if unknown := sorted(set(cls._named()) - set(known)):
                raise SystemExit(f"unknown setting {', '.join(unknown)}: this service reads {', '.join(known)}")
            settings = cls()
        except ValidationError as error:
            lines = [_line(one["loc"], one["msg"]) for one in error.errors()]
            print("\n".join(lines), file=sys.stderr)
            raise SystemExit(2) from None
        except SystemExit as error:
            print(error, file=sys.stderr)
            raise SystemExit(2) from None
        if options.check:
            for variable in cls.variables():
                print(f"{variable.name}={settings.value(variable)}  # {variable.field.description}")
            raise SystemExit(0)
        os.umask(0o077)
        settings._ignored = ignored
        return settings

    @property
    def ignored(self) -> list[str]:
        """Names of environment variables that begin as ours do and were injected by the cluster."""
        return self._ignored

    @classmethod
    def variables(cls) -> list[Variable]:
        """Every variable that this service reads."""
        return list(_variables(cls, ()))

    def value(self, variable: Variable) -> object:
        """The value of a variable."""
        found: object = self
        for name in variable.path:
            found = getattr(found, name)
        return found

    @classmethod
    def _parser(cls) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            prog=f"python -m {cls.__module__.removesuffix('.settings')}",
            description=f"Runs until SIGTERM. Its settings are environment variables with the prefix {PREFIX}.",
        )
        parser.add_argument("--check", action="store_true", help="print the settings that it would run with, and end")
        return parser

    @staticmethod
    def _named() -> list[str]:
        return [name for name in os.environ if name.upper().startswith(PREFIX)]

    def kafka_options(self) -> KafkaOptions:
        """The Kafka options, with a static member for this process's groups unless one is set.

        It is made of host name and listening address: no two processes have both at once, and a process that replaces this
        one has the same. With a port that the system chooses there is no static member.
        """
        chosen_by_system = self.listen.endswith(":0")
        if self.kafka.member or chosen_by_system:
            return self.kafka
        member = re.sub("[^A-Za-z0-9]+", "-", f"{socket.gethostname()}-{self.listen}")
        return self.kafka.model_copy(update={"member": member})

    def credentials(self) -> Credentials:
        """The credentials for calls to other services. Ends the process when one of their files cannot be used."""
        try:
            made = Credentials.from_files(
                self.token_file, self.tls_ca_file, self.tls_client_cert_file, self.tls_client_key_file
            )
            made.ssl()
            return made
        except InvalidArgument as error:
            raise SystemExit(str(error)) from None


def _line(place: Sequence[int | str], text: str) -> str:
    """An error of a variable, or of several together, which has no place."""
    text = text.removeprefix("Value error, ")
    return f"{PREFIX}{'_'.join(map(str, place)).upper()}: {text}" if place else text


def _variables(model: type[BaseModel], path: tuple[str, ...]) -> Iterator[Variable]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables(field.annotation, (*path, name))
        else:
            yield Variable(f"{PREFIX}{'_'.join((*path, name)).upper()}", (*path, name), field)
