"""What the command line says where it does not reach a service: the cause that was seen, and a next step that works."""

import fcntl
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_status import rpc_status
from typer.testing import CliRunner

from deploy.local.ports import free_ports
from deploy.servers.certificates import Authority, can_make_certificates
from millstream.cli.app import app
from millstream.cli.reach import why_not_reached
from millstream.defaults import SERVICES
from millstream.errors import Unavailable, to_status
from millstream.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)

REGISTRY = 4
"""Its port above the port base."""


class StoreIsDown(RegistryServiceServicer):
    """A service that answers every call with the trouble of its store."""

    def ListModels(self, request: Any, context: Any) -> Any:
        error = Unavailable("the store http://127.0.0.1:9000 does not answer: start it, or correct MILLSTREAM_BLOBS")
        context.abort_with_status(rpc_status.to_status(to_status(error)))


@contextmanager
def registry(base: int, host: str = "127.0.0.1", credentials: grpc.ServerCredentials | None = None) -> Iterator[None]:
    """A registry at this port base."""
    threads = ThreadPoolExecutor(2)
    server = grpc.server(threads)
    add_RegistryServiceServicer_to_server(StoreIsDown(), server)
    address = f"{host}:{base + REGISTRY}"
    if credentials:
        server.add_secure_port(address, credentials)
    else:
        server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()
        threads.shutdown()


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A port base at which nothing listens; the present folder has no platform's state."""
    monkeypatch.chdir(tmp_path)
    for service in SERVICES:
        monkeypatch.delenv(f"MILLSTREAM_{service.upper()}", raising=False)
    return free_ports().base


def refused(*words: str) -> str:
    result = CliRunner().invoke(app, ["models", "list", *words])
    assert result.exit_code == 1, result.output
    return str(result.stderr)


def test_where_nothing_listens_the_platform_is_started_on_those_ports(base: int) -> None:
    text = refused("--port-base", str(base))
    assert text.startswith(f"nothing listens at 127.0.0.1:{base + REGISTRY}, so no platform is up there")
    assert f"`millstream up --port-base {base}` starts one" in text


def test_the_ports_of_the_environment_are_carried_too(base: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", str(base))
    assert f"`millstream up --port-base {base}`" in refused()


def test_a_service_that_hangs_is_not_told_as_one_that_is_not_there(base: int) -> None:
    place = f"127.0.0.1:{base + REGISTRY}"
    with socket.create_server(("127.0.0.1", base + REGISTRY)):
        text = why_not_reached(Unavailable(f"connections to all backends failing; last error: ipv4:{place}: timed out"))
    assert text.startswith(f"what listens at {place} does not answer, as a process that hangs: see its log")


def test_a_certificate_of_another_name_is_named() -> None:
    text = "Custom verification check failed with error: UNAUTHENTICATED: Hostname Verification Check failed."
    assert why_not_reached(Unavailable(text)).startswith("the certificate does not name the host that was called")


@pytest.fixture
def other_platform(base: int) -> Iterator[int]:
    """A platform runs on ./.millstream, at another port base, which it is."""
    state = Path(".millstream")
    state.mkdir()
    addresses = {service: f"127.0.0.1:{23101 + number}" for number, service in enumerate(SERVICES)}
    (state / "platform.json").write_text(json.dumps(addresses))
    with (state / "lock").open("w") as lock:
        lock.write("1")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield 23100


def test_a_platform_of_this_folder_on_other_ports_is_named(base: int, other_platform: int) -> None:
    text = refused("--port-base", str(base))
    assert f"the platform of .millstream listens on other ports: add `--port-base {other_platform}`" in text


def test_the_status_of_a_folder_speaks_of_its_platform(base: int, other_platform: int) -> None:
    Path(".millstream").rename("another")
    result = CliRunner().invoke(app, ["status", "--state", "another"])
    assert result.exit_code == 1
    assert f"nothing listens at 127.0.0.1:{other_platform + 1}, although a platform runs on another: " in result.stderr


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_a_service_that_listens_on_the_other_loopback_address_is_found(base: int) -> None:
    with registry(base, "[::1]"):
        text = refused("--port-base", str(base))
        assert (
            f"nothing listens at 127.0.0.1:{base + REGISTRY}, but at [::1]:{base + REGISTRY}: add `--host ::1`" in text
        )
        assert "the store http" in refused("--port-base", str(base), "--host", "::1")


def test_a_service_whose_store_is_down_is_up(base: int) -> None:
    with registry(base):
        text = refused("--port-base", str(base))
    assert text.startswith("the store http://127.0.0.1:9000 does not answer: start it")
    assert f"`millstream status --port-base {base}` shows" in text and "millstream up" not in text


def test_a_service_of_an_older_version_is_no_service_that_is_away(base: int) -> None:
    with registry(base):
        result = CliRunner().invoke(app, ["models", "show", "toy", "--port-base", str(base)])
    assert result.exit_code == 1
    assert result.stderr.startswith("a service is of an older version, which does not know this call: upgrade it")


def test_a_host_that_has_no_address_is_named(base: int) -> None:
    text = refused("--host", "nowhere.invalid", "--port-base", str(base))
    assert f"the host of nowhere.invalid:{base + REGISTRY} has no address: correct --host" in text


def test_what_is_no_service_is_named(base: int) -> None:
    with socket.create_server(("127.0.0.1", base + REGISTRY)) as server, ThreadPoolExecutor(1) as threads:
        threads.submit(_answer_http, server)
        text = refused("--port-base", str(base))
        server.shutdown(socket.SHUT_RDWR)
    assert f"what listens at 127.0.0.1:{base + REGISTRY} speaks no gRPC" in text


def _answer_http(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")
            while connection.recv(4096):
                pass


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    if not can_make_certificates():
        pytest.skip("makes its certificates with openssl")
    return Authority.make(tmp_path)


def of(authority: Authority, mutual: bool = False) -> grpc.ServerCredentials:
    cert, key = authority.pair("pair")
    ca = Path(authority.ca_file).read_bytes() if mutual else None
    return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(cert).read_bytes())], ca, mutual)


def test_a_tls_server_called_in_plaintext_asks_for_its_authority(base: int, authority: Authority) -> None:
    with registry(base, credentials=of(authority)):
        assert "speaks TLS, and this command plaintext: set MILLSTREAM_TLS_CA_FILE" in refused("--port-base", str(base))


def test_a_plaintext_server_called_with_tls_says_so(
    base: int, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLSTREAM_TLS_CA_FILE", str(authority.ca_file))
    with registry(base):
        text = refused("--port-base", str(base))
    assert "speaks plaintext, and this command TLS: unset MILLSTREAM_TLS_CA_FILE" in text


def test_another_authority_and_a_missing_client_certificate_are_named(
    base: int, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Authority.make(tmp_path / "other")
    with registry(base, credentials=of(authority, mutual=True)):
        monkeypatch.setenv("MILLSTREAM_TLS_CA_FILE", str(other.ca_file))
        assert f"is not signed by the authority in {other.ca_file}" in refused("--port-base", str(base))
        monkeypatch.setenv("MILLSTREAM_TLS_CA_FILE", str(authority.ca_file))
        assert "it may require a client certificate. Set MILLSTREAM_TLS_CLIENT_CERT" in refused(
            "--port-base", str(base)
        )
