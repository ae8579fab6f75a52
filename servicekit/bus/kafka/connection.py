"""How this process reaches the brokers: configuration of the client, and what to say when it cannot.

kafka-python tells a dead broker, a wrong password and a wrong authority by one and the same timeout, after having tried
for as long as it may. So a short connection of our own (probe) asks first, and again when something has failed.

`_manager` and `config` of the client are not public in kafka-python: uv.lock holds its version.
"""

import socket
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kafka.errors import (
    AuthorizationError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailedError,
    TopicAuthorizationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.net.compat import KafkaNetClient
from kafka.protocol.metadata import MetadataRequest

from millstream.errors import InvalidArgument, Unavailable
from servicekit.bus.kafka.options import KafkaOptions

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 5.0
METADATA_SECONDS = 5.0


class Client(KafkaNetClient):  # type: ignore[misc]
    """Never lets a broker invent a topic: it would have the broker's number of partitions, not ours."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs, socket_connection_setup_timeout_ms=CONNECT_SECONDS * 1000)
        self.cluster.config["allow_auto_create_topics"] = False


@dataclass(frozen=True)
class Link:
    """The brokers and our access to them."""

    servers: tuple[str, ...]
    options: KafkaOptions

    @property
    def address(self) -> str:
        return ",".join(self.servers)

    def configuration(self) -> dict[str, Any]:
        """What every client of the library is given. Raises Unavailable if a file is missing or no good."""
        options = self.options
        login = {
            "sasl_mechanism": options.mechanism,
            "sasl_plain_username": options.user,
            "sasl_plain_password": self._password(),
        }
        protocol = ("SASL_" if options.user else "") + ("SSL" if options.uses_tls else "PLAINTEXT")
        return {
            "bootstrap_servers": list(self.servers),
            "client_id": "millstream",
            "security_protocol": protocol.replace("PLAINTEXT", "PLAINTEXT"),
            "ssl_context": self._tls() if options.uses_tls else None,
            **(login if options.user else {}),
            "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000),
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "metadata_max_age_ms": int(METADATA_SECONDS * 1000),
            "reconnect_backoff_max_ms": 1000,
        }

    def unavailable(self, text: str) -> Unavailable:
        return Unavailable(f"Kafka at {self.address}: {text}", address=self.address)

    def probe(self) -> None:
        """Connect, log in and ask who is there. Raises Unavailable, naming what to mend."""
        troubles = []
        for server in self.servers:
            incident = self._trouble(server)
            if not incident:
                return
            troubles.append(incident)
        raise self.unavailable(troubles[0])

    def explain(self, error: Exception) -> Unavailable:
        """The same error in words that say what to mend; asks the brokers if the error alone does not tell."""
        if isinstance(error, AuthorizationError):
            return self.unavailable(_refused(error, self.options.user))
        if "ClusterAuthorizationFailedError" in str(error):  # as a producer's plain KafkaError: it is given no id
            return self.unavailable(
                f"{user_label(self.options.user)} may write no topic: grant it WRITE (kafka-acls.sh)"
            )
        self.probe()
        return self.unavailable(f"{type(error).__name__}: {error}. The broker answers; look at its log.")

    def _trouble(self, server: str) -> str:
        client = Client(**{**self.configuration(), "bootstrap_servers": [server]})
        manager = client._manager
        node = manager.cluster.bootstrap_brokers()[0].node_id

        async def ask() -> None:
            await manager.wait_for(manager.get_connection(node).init_future, CONNECT_SECONDS * 1000)
            await manager.wait_for(manager.send(MetadataRequest(topics=[]), node), CONNECT_SECONDS * 1000)

        try:
            client._net.run(ask)
        except (KafkaError, OSError, ValueError) as error:
            return self._words(server, error)
        finally:
            client.close()
        return ""

    def _words(self, server: str, error: Exception) -> str:
        options, text = self.options, str(error)
        host = f"{server} "
        if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
            text = f"{host}offers no login by {options.mechanism}"
            return f"{text}: set MILLSTREAM_KAFKA_MECHANISM, or unset MILLSTREAM_KAFKA_USER"
        refused = (
            f"{host}refuses the login of {options.user!r}: set MILLSTREAM_KAFKA_USER and the password "
            f"in MILLSTREAM_KAFKA_PASSWORD_FILE ({options.password_file or 'not set'})"
        )
        if isinstance(error, SaslAuthenticationFailedError):
            return refused
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                f"{host}shows a certificate that is not trusted ({_reason(text)}): set MILLSTREAM_KAFKA_CA_FILE "
                f"({options.ca_file or 'not set'}) to the authority that signed it"
            )
        if options.uses_tls and "Handshake failed" in text:
            return (
                f"{host}does not finish a TLS handshake ({_reason(text)}): a plaintext listener? Unset MILLSTREAM_KAFKA_TLS "
                "and the files for TLS, or name its TLS port in MILLSTREAM_BUS; with mTLS, look at "
                "MILLSTREAM_KAFKA_CLIENT_CERT_FILE"
            )
        if _listens(server):
            if not options.uses_tls and _speaks_tls(server):
                return f"{host}speaks TLS: set MILLSTREAM_KAFKA_TLS=true and MILLSTREAM_KAFKA_CA_FILE"
            if not options.user:
                text = f"{host}hangs up: if it asks for a login"
                return f"{text}, set MILLSTREAM_KAFKA_USER and MILLSTREAM_KAFKA_PASSWORD_FILE"
            if isinstance(error, KafkaConnectionError):
                return refused  # a broker hangs up after its refusal, and the client reads both at once
            return f"{host}does not answer as a broker ({text}): look at MILLSTREAM_BUS, and at the broker's log"
        return f"{host}cannot be reached ({text}): start the broker, or set MILLSTREAM_BUS"

    def _password(self) -> str:
        if not self.options.user:
            return ""
        try:
            return Path(self.options.password_file).read_text().strip()
        except OSError as error:
            text = f"cannot read MILLSTREAM_KAFKA_PASSWORD_FILE={self.options.password_file}: {error.strerror}"
            raise self.unavailable(text) from None

    def _tls(self) -> ssl.SSLContext:
        options = self.options
        name = f"MILLSTREAM_KAFKA_CA_FILE={options.ca_file}"
        try:
            context = ssl.create_default_context(cafile=options.ca_file or None)
            if options.client_cert_file:
                name = (
                    f"MILLSTREAM_KAFKA_CLIENT_CERT_FILE={options.client_cert_file} and MILLSTREAM_KAFKA_CLIENT_KEY_FILE"
                )
                context.load_cert_chain(options.client_cert_file, options.client_key_file or None)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise self.unavailable(f"cannot use {name}: {error}") from None
        return context


def link(servers: Sequence[str], options: KafkaOptions) -> Link:
    """Raises InvalidArgument for an address that is none."""
    for server in servers:
        host, _, port = server.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise InvalidArgument(f"{server!r} is no broker: use kafka:HOST:PORT,HOST:PORT", field="MILLSTREAM_BUS")
    return Link(tuple(servers), options)


def user_label(user: str) -> str:
    """The user in words, also where nobody logs in."""
    return f"user {user!r}" if user else "whoever logs in nowhere"


def _refused(error: Exception, user: str) -> str:
    actor = user_label(user)
    names = ", ".join(sorted(map(str, error.args[0] if error.args and isinstance(error.args[0], set) else error.args)))
    if isinstance(error, TopicAuthorizationFailedError):
        return f"{actor} may not use topic {names}: grant it DESCRIBE with READ or WRITE (kafka-acls.sh)"
    if isinstance(error, GroupAuthorizationFailedError):
        return f"{actor} may not use group {names}: grant it READ of the group (kafka-acls.sh)"
    return f"{actor} may not do this ({error}): grant it (kafka-acls.sh)"


def _reason(text: str) -> str:
    return text.partition("[SSL: ")[2].partition("]")[0] or text.removeprefix("KafkaConnectionError: ")


def _listens(server: str) -> bool:
    with suppress(OSError), _connection(server):
        return True
    return False


def _speaks_tls(server: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing is said on it: only whether it speaks
    with suppress(OSError), _connection(server) as plain, context.wrap_socket(plain):
        return True
    return False


def _connection(server: str) -> socket.socket:
    host, _, port = server.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)


def now() -> float:
    return time.monotonic()
