"""The servers that tests stand on: they stop, die, lose their data and come back where they were, and leave nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.servers import binaries
from deploy.servers.kafka import Kafka, answers
from deploy.servers.minio import Minio
from deploy.servers.process import CannotStart, Server
from tests.worlds.servers import Broker, Store

OWNER = """
import sys, time
from pathlib import Path
from deploy.servers.kafka import Kafka
server = Kafka(Path(sys.argv[1]))
server.start()
print(server.pid, server.address, flush=True)
time.sleep(600)
"""


def test_the_shared_broker_and_store_serve(kafka: Broker, minio: Store) -> None:
    assert answers(kafka.address)
    host, port = minio.endpoint.rpartition("//")[2].split(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def ups_and_downs(server: Server) -> None:
    first = server.pid
    for end in (server.stop, server.kill):
        end()
        assert not server.running and not server.ready()
        server.start()
        assert server.running and server.ready() and server.pid != first
    server.kill()
    server.wipe()
    assert not server.data.exists()
    server.start()
    assert server.ready()


def test_a_broker_comes_back_at_its_address(own_kafka: Callable[..., Kafka]) -> None:
    ups_and_downs(own_kafka())


def test_a_broker_starts_whatever_its_cluster_id_begins_with(
    own_kafka: Callable[..., Kafka], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(bytes=b"\xf8" * 16))  # begins with a dash, as an option does
    assert own_kafka().ready()


def test_a_store_comes_back_at_its_address_with_its_keys(own_minio: Callable[..., Minio]) -> None:
    store = own_minio()
    keys = store.access_key_file.read_text(), store.secret_key_file.read_text()
    ups_and_downs(store)
    assert keys == (store.access_key_file.read_text(), store.secret_key_file.read_text())
    assert {file.stat().st_mode & 0o777 for file in (store.access_key_file, store.secret_key_file)} == {0o600}


def test_a_server_that_cannot_start_shows_its_log(own_kafka: Callable[..., Kafka], tmp_path: Path) -> None:
    broker = own_kafka()
    port = int(broker.address.rpartition(":")[2])
    with pytest.raises(CannotStart, match=r"exit code 1[\s\S]*Address already in use"):
        Kafka(tmp_path / "second", port=port).start()


@pytest.mark.skipif(sys.platform != "linux", reason="a child ends with its parent on Linux only")
def test_a_server_does_not_outlive_a_killed_test_run(own_kafka: Callable[..., Kafka], tmp_path: Path) -> None:
    own_kafka()  # skips where there is none
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout
        pid, address = owner.stdout.readline().split()
        assert answers(address)
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the broker lives on without its owner"
        time.sleep(0.05)


def test_where_nothing_is_installed_one_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    for server in (Kafka(tmp_path / "kafka"), Minio(tmp_path / "minio")):
        with pytest.raises(CannotStart, match="make servers"):
            server.start()
    with pytest.raises(CannotStart, match="Java 17"):
        binaries.install_kafka(print)
    with pytest.raises(CannotStart, match="install Go"):
        binaries.install_minio(print)
    assert [path.name for path in (tmp_path / "cache/millstream").iterdir()] == [f".minio-{binaries.MINIO_COMMIT}.lock"]


def test_an_installation_that_dies_leaves_nothing_and_the_next_one_begins_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    go = tmp_path / "go"
    go.write_text("#!/bin/sh\ntouch $GOBIN/minio\nexit 3\n")
    go.chmod(0o755)
    with pytest.raises(CannotStart, match="exit code 3"):
        binaries.install_minio(print)
    assert not binaries.minio_binary().exists()
    go.write_text("#!/bin/sh\necho built > $GOBIN/minio\n")
    binaries.install_minio(print)
    go.write_text("#!/bin/sh\nexit 1\n")
    binaries.install_minio(print)  # it is installed, and not built again
    assert binaries.minio_binary().read_text() == "built\n"
