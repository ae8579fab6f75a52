"""The brokers: configuration of the client, a probe, and errors explained.

kafka-python reports a dead broker, a wrong password and an untrusted certificate by one and the same timeout, after it has
retried for as long as it may. So a short connection of our own (the probe) comes first, and again after any failure.

The client's `_manager` and `config` are private to kafka-python: uv.lock pins its version.
"""

import socket
import ssl
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

from millstream.defaults import is_address, joined
from millstream.errors import InvalidArgument, Unavailable
from servicekit.bus.kafka.options import KafkaOptions

CONNECT_SECONDS = 3.0
REQUEST_SECONDS = 5.0
METADATA_SECONDS = 5.0


class Client(KafkaNetClient):  # type: ignore[misc]
    """Never lets a broker create a topic by itself: it would have the broker's number of partitions, not the options'."""

    def __init__(self, **configs: Any) -> None:
        super().__init__(**configs, socket_connection_setup_timeout_ms=CONNECT_SECONDS * 1000)
        self.cluster.config["allow_auto_create_topics"] = False


@dataclass(frozen=True)
class Link:
    """The brokers' addresses and the options to connect with."""

    servers: tuple[str, ...]
    options: KafkaOptions

    @property
    def address(self) -> str:
        """All servers, with commas between."""
        return ",".join(self.servers)

    def configuration(self) -> dict[str, Any]:
        """The library's settings for every client. Raises Unavailable for a file that is missing or invalid."""
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
            "security_protocol": protocol,
            "ssl_context": self._tls() if options.uses_tls else None,
            **(login if options.user else {}),
            "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000),
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "metadata_max_age_ms": int(METADATA_SECONDS * 1000),
            "reconnect_backoff_max_ms": 1000,
        }

    def unavailable(self, text: str) -> Unavailable:
        """An Unavailable whose text names the brokers."""
        return Unavailable(f"Kafka at {self.address}: {text}", address=self.address)

    def probe(self) -> Any:
        """Connect, log in and fetch metadata from any server: its MetadataResponse, without topics. Blocks.

        Raises Unavailable with the first server's problem.
        """
        problems = []
        for server in self.servers:
            try:
                return self._metadata(server)
            except (KafkaError, OSError, ValueError) as error:
                problems.append(self._describe(server, error))
        raise self.unavailable(problems[0])

    def explain(self, error: Exception) -> Unavailable:
        """The client's error as Unavailable, with what to do. Blocks: where the error is unclear it probes the brokers."""
        if isinstance(error, AuthorizationError):
            return self.unavailable(_describe_denied(error, self.options.user))
        if "ClusterAuthorizationFailedError" in str(error):  # a producer that may write no topic gets no id
            return self.unavailable(
                f"{user_label(self.options.user)} may write no topic: grant it WRITE (kafka-acls.sh)"
            )
        hint = self._misnamed(self.probe()) or "The broker answers; see its log."
        return self.unavailable(f"{type(error).__name__}: {error}. {hint}")

    def _misnamed(self, metadata: Any) -> str:
        """The problem with the addresses that a broker gives to its clients; "": they can be reached."""
        given = [joined(broker.host, broker.port) for broker in metadata.brokers]
        absent = next((one for one in given if one not in self.servers and not _listens(one)), "")
        return absent and (
            f"The broker answers, and sends clients to {absent}, where nothing can be reached from here: start that broker, "
            "or set its advertised.listeners to an address that its clients reach"
        )

    def _metadata(self, server: str) -> Any:
        """What a server says of its cluster. Raises KafkaError, OSError, ValueError."""
        client = Client(**{**self.configuration(), "bootstrap_servers": [server]})
        manager = client._manager
        node = manager.cluster.bootstrap_brokers()[0].node_id

        async def fetch() -> Any:
            await manager.wait_for(manager.get_connection(node).init_future, CONNECT_SECONDS * 1000)
            return await manager.wait_for(manager.send(MetadataRequest(topics=[]), node), CONNECT_SECONDS * 1000)

        try:
            return client._net.run(fetch)
        finally:
            client.close()

    def _describe(self, server: str, error: Exception) -> str:
        options, text = self.options, str(error)
        if isinstance(error, UnsupportedSaslMechanismError | IllegalSaslStateError):
            text = f"{server} offers no login by {options.mechanism}"
            return f"{text}: set MILLSTREAM_KAFKA_MECHANISM, or unset MILLSTREAM_KAFKA_USER"
        refused = (
            f"{server} refuses the login of {options.user!r}: set MILLSTREAM_KAFKA_USER and the password "
            f"in MILLSTREAM_KAFKA_PASSWORD_FILE ({options.password_file or 'not set'})"
        )
        if isinstance(error, SaslAuthenticationFailedError):
            return refused
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return (
                f"{server} presents a certificate that is not trusted ({_reason(text)}): set MILLSTREAM_KAFKA_CA_FILE "
                f"({options.ca_file or 'not set'}) to the authority that signed it"
            )
        if options.uses_tls and "Handshake failed" in text:
            return (
                f"{server} does not complete a TLS handshake ({_reason(text)}): a plaintext listener? Unset "
                "MILLSTREAM_KAFKA_TLS and the files for TLS, or name its TLS port in MILLSTREAM_BUS; with mTLS, check "
                "MILLSTREAM_KAFKA_CLIENT_CERT_FILE"
            )
        if _listens(server):
            if not options.uses_tls and _speaks_tls(server):
                return f"{server} speaks TLS: set MILLSTREAM_KAFKA_TLS=true and MILLSTREAM_KAFKA_CA_FILE"
            if not options.user:
                text = f"{server} closes the connection: if it requires a login"
                return f"{text}, set MILLSTREAM_KAFKA_USER and MILLSTREAM_KAFKA_PASSWORD_FILE"
            if isinstance(error, KafkaConnectionError):
                return refused  # a broker closes after it refused a login, and the client may see only that
            return f"{server} does not answer as a broker ({text}): check MILLSTREAM_BUS, and see the broker's log"
        return f"{server} cannot be reached ({text}): start the broker, or set MILLSTREAM_BUS"

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
    """The brokers at these addresses, `HOST:PORT` each. Connects to none. Raises InvalidArgument for another form."""
    for server in servers:
        if not is_address(server):
            raise InvalidArgument(f"{server!r} is no broker: use kafka:HOST:PORT,HOST:PORT", field="MILLSTREAM_BUS")
    return Link(tuple(servers), options)


def user_label(user: str) -> str:
    """How error texts name the user."""
    return f"user {user!r}" if user else "a client without login"


def _describe_denied(error: Exception, user: str) -> str:
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
    with (
        suppress(OSError, ValueError),
        _connection(server),
    ):  # ValueError: a name that no DNS, or a port that no machine has
        return True
    return False


def _speaks_tls(server: str) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # no data is sent: this only detects TLS
    with suppress(OSError), _connection(server) as plain, context.wrap_socket(plain):
        return True
    return False


def _connection(server: str) -> socket.socket:
    host, _, port = server.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS)
