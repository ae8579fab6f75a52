"""A real Kafka and a real MinIO for tests (deploy/servers/): fixtures, and a skip with its reason where there are none.

TEST_KAFKA=HOST:PORT and TEST_MINIO=http://HOST:PORT (with TEST_MINIO_ACCESS_KEY_FILE and TEST_MINIO_SECRET_KEY_FILE)
name servers that run already. TEST_SERVERS=required makes a failure of what would be a skip.
"""

import atexit
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NoReturn, Protocol, TypeVar

import pytest
from minio import MinioAdmin
from minio.credentials.providers import StaticProvider

from deploy.servers.binaries import KAFKA_VERSION, MINIO_COMMIT
from deploy.servers.kafka import Kafka, answers
from deploy.servers.minio import Minio
from deploy.servers.process import CannotStart, Server
from servicekit.runtime.settings import Settings

S = TypeVar("S", bound=Server)
_summary: dict[str, str] = {}
"""A line of the summary for each server that a test requested."""


class Broker(Protocol):
    """A Kafka broker that tests share."""

    address: str

    def settings(self) -> dict[str, str]: ...


class Store(Protocol):
    """A MinIO that tests share; each test takes a bucket of its own."""

    endpoint: str
    access_key_file: Path
    secret_key_file: Path

    def blobs(self, bucket: str) -> str: ...
    def settings(self, bucket: str) -> dict[str, str]: ...


@dataclass
class GivenBroker:
    address: str

    def settings(self) -> dict[str, str]:
        return {"bus": f"kafka:{self.address}"}


@dataclass
class GivenStore:
    endpoint: str
    access_key_file: Path
    secret_key_file: Path

    def blobs(self, bucket: str) -> str:
        return f"minio:{self.endpoint}/{bucket}"

    def settings(self, bucket: str) -> dict[str, str]:
        files = {"access": self.access_key_file, "secret": self.secret_key_file}
        return {"blobs": self.blobs(bucket), **{f"minio_{name}_key_file": str(file) for name, file in files.items()}}


def root(store: Store) -> StaticProvider:
    """The credentials of the store's root user."""
    return StaticProvider(store.access_key_file.read_text(), store.secret_key_file.read_text())


def admin_of(store: Store) -> MinioAdmin:
    """The admin client of a store without TLS."""
    return MinioAdmin(endpoint=store.endpoint.partition("://")[2], credentials=root(store), secure=False)


def settings_of(named: Mapping[str, str]) -> Settings:
    """Settings by the names that `--set` takes: `kafka_user` is an option of the group kafka."""
    flat: dict[str, Any] = {}
    for name, value in named.items():
        group, _, option = name.partition("_")
        if group in ("kafka", "minio"):
            flat.setdefault(group, {})[option] = value
        else:
            flat[name] = value
    return Settings(**flat)


@contextmanager
def running(server: S) -> Iterator[S]:
    """A server of the test's own, killed afterwards. Skips, or fails, where it cannot be had."""
    try:
        yield _started(server)
    finally:
        server.kill()
        server.wipe()


@cache
def _folder() -> Path:
    """Of the servers that this run shares. Registered before them, so removed after their end."""
    folder = Path(mkdtemp(prefix="millstream-servers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _own_broker() -> Kafka:
    return Kafka(_folder() / "kafka")


@cache
def _own_store() -> Minio:
    return Minio(_folder() / "minio")


def shared_broker() -> Broker:
    """The broker that the tests of this run share, started when first asked for: each takes a kafka_prefix of its own."""
    if given := os.environ.get("TEST_KAFKA"):
        if not answers(given):
            pytest.fail(f"TEST_KAFKA={given}: no broker answers there")
        _summary["Kafka"] = f"the broker at {given} (TEST_KAFKA)"
        return GivenBroker(given)
    broker = _started(_own_broker())
    _summary["Kafka"] = f"real broker {KAFKA_VERSION}"
    return broker


def shared_store() -> Store:
    """The store that the tests of this run share, started when first asked for: each takes a bucket of its own."""
    if given := os.environ.get("TEST_MINIO"):
        names = [f"TEST_MINIO_{which}_KEY_FILE" for which in ("ACCESS", "SECRET")]
        files = [Path(os.environ.get(name, "")) for name in names]
        if not all(file.is_file() for file in files):
            pytest.fail(f"TEST_MINIO={given} needs its keys in files: set {' and '.join(names)}")
        _summary["MinIO"] = f"the store at {given} (TEST_MINIO)"
        return GivenStore(given, *files)
    store = _started(_own_store())
    _summary["MinIO"] = f"real server {MINIO_COMMIT}"
    return store


@pytest.fixture(scope="session")
def kafka() -> Broker:
    return shared_broker()


@pytest.fixture(scope="session")
def minio() -> Store:
    return shared_store()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Callable[..., Kafka]]:
    """Makes brokers that this test alone has, to stop, kill and wipe; takes the options of Kafka()."""
    with _own(Kafka, tmp_path) as make:
        yield make


@pytest.fixture
def own_minio(tmp_path: Path) -> Iterator[Callable[..., Minio]]:
    """Makes stores that this test alone has, to stop, kill and wipe; takes the options of Minio()."""
    with _own(Minio, tmp_path) as make:
        yield make


@contextmanager
def _own(kind: Callable[..., S], folder: Path) -> Iterator[Callable[..., S]]:
    made: list[S] = []

    def make(**options: object) -> S:
        server = kind(folder / f"own-{len(made)}", **options)
        made.append(server)
        return _started(server)

    try:
        yield make
    finally:
        for server in made:
            server.kill()
            server.wipe()


def _started(server: S) -> S:
    try:
        server.start()
    except CannotStart as refusal:
        _unavailable(server.kind, str(refusal))
    return server


def _unavailable(kind: str, reason: str) -> NoReturn:
    _summary[kind] = f"NOT TESTED, because {reason}"
    if os.environ.get("TEST_SERVERS") == "required":
        pytest.fail(f"{kind} is required here (TEST_SERVERS=required): {reason}")
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print which servers the tests ran on."""
    for kind, line in sorted(_summary.items()):
        terminalreporter.write_line(f"{kind}: {line}")
