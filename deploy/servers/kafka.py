"""One Kafka broker that is its own controller (KRaft), on the loopback address."""

import base64
import signal
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

from deploy.local.ports import own_range
from deploy.servers import binaries
from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.process import CannotStart, Server
from millstream.defaults import HOST

LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")
ANSWER_SECONDS = 5.0
SMALL = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true", "-Djava.net.preferIPv4Stack=true")
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256")
PLAIN_LISTENER, CONTROLLER, SECURE = "PLAINTEXT", "CONTROLLER", "SECURE"

SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "inter.broker.listener.name": PLAIN_LISTENER,
    "controller.listener.names": CONTROLLER,
    "listener.security.protocol.map": f"{PLAIN_LISTENER}:PLAINTEXT,{CONTROLLER}:PLAINTEXT,{SECURE}:SASL_SSL",
    "auto.create.topics.enable": "false",
    # One broker cannot hold the usual three replicas of the internal topics.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "3",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "3",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "3",
    # Groups form at once, and may ask for quick take-over.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "500",
    # A broker that was killed waits at its next start for the end of its old session, by default 9 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "400",
    # Few threads and small buffers.
    "num.network.threads": "2",
    "num.io.threads": "2",
    "num.recovery.threads.per.data.dir": "1",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.index.size.max.bytes": "1048576",
    "log.segment.bytes": "67108864",
}


class Kafka(Server):
    """A broker on its folder. With `users` it has a second listener: TLS, and SASL by SCRAM or PLAIN for these names.

    `settings` are more lines of server.properties. The addresses stay the same over stop, kill and start.
    """

    kind = "Kafka"

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        users: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder)
        base = own_range()
        self.address = f"{HOST}:{port or base + 1}"
        self._controller = f"{HOST}:{base + 2}"
        self.secure_address = f"{HOST}:{base + 3}" if users else ""
        self.authority = Authority(self.folder / "tls")
        self._users, self._settings = dict(users or {}), dict(settings or {})
        self._container, self._in_container = "", False

    @property
    def ca_file(self) -> Path:
        """The authority that signed the secure listener's certificate, and those of clients that show one."""
        return self.authority.ca_file

    def settings(self, user: str = "") -> dict[str, str]:
        """The platform's settings for this broker. `user` "": the plaintext listener; else the secure one, as that user."""
        if not user:
            return {"bus": f"kafka:{self.address}"}
        return {
            "bus": f"kafka:{self.secure_address}",
            "kafka_user": user,
            "kafka_password_file": str(self._password_file(user)),
            "kafka_ca_file": str(self.ca_file),
        }

    def ready(self) -> bool:
        """Whether the broker has started and answers a client's first request."""
        return "Kafka Server started" in self._logged() and answers(self.address)

    def _run(self) -> None:
        if self._users and not self.ca_file.exists():
            self._make_secure()
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if not (self.data / "meta.properties").exists():
            self._format(properties)
        java = self._java()
        self._in_container = java[0] == "docker"
        self._spawn([*java, "-Xms64m", "-Xmx256m", "kafka.Kafka", str(properties)], {})

    def _java(self) -> list[str]:
        """The command up to the name of the class. In Docker each run has a container of its own."""
        self._container = f"millstream-kafka-{uuid.uuid4().hex[:12]}"
        log_settings = self.folder / LOG_SETTINGS.name
        log_settings.write_text(LOG_SETTINGS.read_text())
        return [
            *binaries.java_for_kafka(self.folder, self._container),
            *SMALL,
            f"-Dlog4j2.configurationFile={log_settings}",
        ]

    def _end(self, number: int) -> None:
        """`docker run` passes on every signal but SIGKILL."""
        if number == signal.SIGKILL and self.running and self._in_container:
            subprocess.run(["docker", "kill", self._container], capture_output=True, check=False)
        super()._end(number)

    def _properties(self) -> dict[str, str]:
        listeners = [f"{PLAIN_LISTENER}://{self.address}"]
        secure: dict[str, str] = {}
        if self._users:
            listeners.append(f"{SECURE}://{self.secure_address}")
            secure = self._secure_properties()
        return {
            **SETTINGS,
            "listeners": ",".join([*listeners, f"{CONTROLLER}://{self._controller}"]),
            "advertised.listeners": ",".join(listeners),
            "controller.quorum.voters": f"1@{self._controller}",
            "log.dirs": str(self.data),
            **secure,
            **self._settings,
        }

    def _secure_properties(self) -> dict[str, str]:
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        passwords = " ".join(f'user_{name}="{password}"' for name, password in self._users.items())
        plain = f"org.apache.kafka.common.security.plain.PlainLoginModule required {passwords};"
        listener = f"listener.name.{SECURE.lower()}"
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.folder / "tls" / "keystore.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.ca_file),
            "ssl.client.auth": "requested",
            "sasl.enabled.mechanisms": ",".join([*MECHANISMS, "PLAIN"]),
            **{f"{listener}.{name.lower()}.sasl.jaas.config": scram for name in MECHANISMS},
            f"{listener}.plain.sasl.jaas.config": plain,
        }

    def _make_secure(self) -> None:
        if not can_make_certificates():
            raise CannotStart("the secure listener's certificate is made with openssl: install it")
        Authority.make(self.authority.folder, "kafka")
        certificate, key = self.authority.pair("kafka")
        keystore = self.authority.folder / "keystore.pem"
        keystore.write_text(key.read_text() + certificate.read_text())
        for name, password in self._users.items():
            self._password_file(name).write_text(password)
            self._password_file(name).chmod(0o600)

    def _password_file(self, user: str) -> Path:
        return self.authority.folder / f"{user}.password"

    def _format(self, properties: Path) -> None:
        """Give the data folder a cluster id, and the users their SCRAM secrets."""
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        scram = [
            word
            for name, password in self._users.items()
            for mechanism in MECHANISMS
            for word in ("--add-scram", f"{mechanism}=[name={name},password={password}]")
        ]
        tool = [*self._java(), "-Xmx128m", "kafka.tools.StorageTool"]
        # One id in 64 begins with a dash and would be taken for an option.
        command = [*tool, "format", f"--cluster-id={cluster}", "-c", str(properties), *scram]
        run = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if run.returncode:
            raise CannotStart(f"Kafka's StorageTool ended with exit code {run.returncode}: {run.stdout}{run.stderr}")


def answers(address: str) -> bool:
    """Whether a broker answers an ApiVersions request, the first of every client."""
    host, _, port = address.rpartition(":")
    request = struct.pack(">hhih", 18, 0, 1, -1)  # api key, version, correlation id, no client id
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(struct.pack(">i", len(request)) + request)
            head = connection.recv(10, socket.MSG_WAITALL)  # length, correlation id, error code
    except OSError:
        return False
    return len(head) == 10 and struct.unpack(">iih", head)[1:] == (1, 0)
