"""deploy.servers: options, and certificates; tests/integration/test_servers.py starts both servers."""

import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.servers import binaries
from deploy.servers.__main__ import arguments
from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.process import CannotStart, Server


def test_options() -> None:
    assert (arguments([]).what, arguments(["install"]).what) == ("run", "install")
    assert arguments(["--folder", "x"]).folder == Path("x")
    with pytest.raises(SystemExit):
        arguments(["remove"])


def test_programs_that_are_missing_are_named_with_how_to_install_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    for start in (binaries.minio, lambda: binaries.java_for_kafka(tmp_path, "name")):
        with pytest.raises(CannotStart, match="make servers"):
            start()


def test_the_command_ends_with_the_reason(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "deploy.servers", "--folder", str(tmp_path / "servers")],
        env={"XDG_CACHE_HOME": str(tmp_path), "PATH": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert run.returncode == 1 and "Traceback" not in run.stderr
    assert "make servers" in run.stderr


@pytest.mark.skipif(not can_make_certificates(), reason="there is no openssl here")
def test_a_certificate_is_signed_by_its_authority_for_the_loopback_address(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path / "tls")
    certificate, key = authority.pair("one")
    context = ssl.create_default_context(cafile=authority.ca_file)
    context.load_cert_chain(certificate, key)
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", authority.ca_file, "-verify_ip", "127.0.0.1", certificate],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert verified.returncode == 0, verified.stderr


class Sleeper(Server):
    """A server that is ready when its data folder has a file; it writes that itself."""

    kind = "Sleeper"
    code = "import os, signal; os.makedirs('data', exist_ok=True); open('data/up', 'w').close(); signal.pause()"

    def ready(self) -> bool:
        return (self.data / "up").exists()

    def _run(self) -> None:
        self._spawn([sys.executable, "-c", self.code], {})


def test_a_server_starts_stops_is_killed_and_wiped(tmp_path: Path) -> None:
    server = Sleeper(tmp_path)
    server.start()
    first = server.pid
    server.start()
    assert server.running and server.pid == first, "a second start does nothing"
    with pytest.raises(RuntimeError, match="stop Sleeper before"):
        server.wipe()
    server.stop()
    assert not server.running
    server.wipe()
    assert not server.data.exists()
    server.start()
    assert server.pid != first
    server.kill()
    assert not server.running


def test_a_server_that_ends_is_an_error_with_the_end_of_its_log(tmp_path: Path) -> None:
    server = Sleeper(tmp_path)
    server.code = "import sys; print('no memory', flush=True); sys.exit(3)"
    with pytest.raises(CannotStart, match=r"(?s)Sleeper ended with exit code 3.*no memory"):
        server.start()
