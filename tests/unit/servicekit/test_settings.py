"""Settings: the environment alone, nothing unknown, nothing changed afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from servicekit.rpc.auth import Tokens
from servicekit.runtime.settings import Settings


class Mine(Settings):
    listen: str = Field("127.0.0.1:50051", description="host:port of the gRPC server")
    most_rows: int = Field(10, ge=1, description="rows at once")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("os.environ", {"PATH": "/bin", "HOME": "/nowhere"})
    return monkeypatch


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MILLSTREAM_MOST_ROWS", "7")
    environment.setenv("TEST_SOMETHING", "is no setting")
    settings = Mine.read()
    assert (settings.most_rows, settings.listen, settings.resync_seconds) == (7, "127.0.0.1:50051", 30.0)
    with pytest.raises(ValidationError, match="frozen"):
        settings.most_rows = 8  # type: ignore[misc]


@pytest.mark.parametrize("name", ["MILLSTREAM_MOST_ROW", "millstream_most_row", "MILLSTREAM_REGISTRY_SERVICE_HOST"])
def test_an_unknown_name_is_refused(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.setenv(name, "7")
    with pytest.raises(SystemExit) as ended:
        Mine.read()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert f"unknown setting {name}" in printed and "MILLSTREAM_MOST_ROWS" in printed


LINKS = {
    "MILLSTREAM_REGISTRY_PORT": "tcp://10.0.0.1:9104",
    "MILLSTREAM_REGISTRY_PORT_9104_TCP": "tcp://10.0.0.1:9104",
    "MILLSTREAM_REGISTRY_PORT_9104_TCP_ADDR": "10.0.0.1",
    "MILLSTREAM_REGISTRY_PORT_9104_TCP_PORT": "9104",
    "MILLSTREAM_REGISTRY_PORT_9104_TCP_PROTO": "tcp",
    "MILLSTREAM_REGISTRY_SERVICE_HOST": "10.0.0.1",
    "MILLSTREAM_REGISTRY_SERVICE_PORT": "9104",
    "MILLSTREAM_REGISTRY_SERVICE_PORT_GRPC": "9104",
    "MILLSTREAM_KAFKA_PORT": "tcp://10.0.0.2:9092",  # settings.kafka is a group of options
    "MILLSTREAM_PORT": "tcp://10.0.0.3:80",
}


def test_what_kubernetes_injects_for_a_service_of_our_name_is_ignored(environment: pytest.MonkeyPatch) -> None:
    for name, value in LINKS.items():
        environment.setenv(name, value)
    environment.setenv("MILLSTREAM_MOST_ROWS", "7")
    settings = Mine.read()
    assert settings.most_rows == 7
    assert settings.ignored == sorted(LINKS)
    assert not set(os.environ) & set(LINKS)  # no child sees them either


def test_a_port_of_another_shape_is_a_slip(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    environment.setenv("MILLSTREAM_REGISTRY_PORT", "9104")
    with pytest.raises(SystemExit):
        Mine.read()
    assert "unknown setting MILLSTREAM_REGISTRY_PORT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"), [("MOST_ROWS", "0"), ("MOST_ROWS", "many"), ("RESYNC_SECONDS", "0"), ("LOG_LEVEL", "LOUD")]
)
def test_a_wrong_value_is_refused_by_name(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(f"MILLSTREAM_{name}", value)
    with pytest.raises(SystemExit) as ended:
        Mine.read()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"MILLSTREAM_{name}: ")


def test_check_prints_every_setting_and_no_secret(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("swordfish\n")
    environment.setenv("MILLSTREAM_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(SystemExit) as ended:
        Mine.read(["--check"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert [line.partition("=")[0] for line in printed.splitlines()] == [variable.name for variable in Mine.variables()]
    assert "MILLSTREAM_MOST_ROWS=10  # rows at once" in printed and "swordfish" not in printed


@pytest.mark.parametrize(("argument", "exit_code"), [("--help", 0), ("--chekc", 2), ("serve", 2)])
def test_no_other_argument_starts_a_service(capsys: pytest.CaptureFixture[str], argument: str, exit_code: int) -> None:
    with pytest.raises(SystemExit) as ended:
        Mine.read([argument])
    assert ended.value.code == exit_code
    assert "--check" in "".join(capsys.readouterr())


def test_the_token_goes_out(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("swordfish\n")
    environment.setenv("MILLSTREAM_TOKEN_FILE", str(tmp_path / "token"))
    assert Mine.read().credentials().bearer() == "swordfish"
    environment.setenv("MILLSTREAM_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match="cannot read"):
        Mine.read().credentials()


def test_authorities_that_cannot_be_read_end_the_process(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CERT", "KEY", "CA"):
        environment.setenv(f"MILLSTREAM_TLS_{name}_FILE", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"cannot read .*none: No such file or directory; MILLSTREAM_TLS_CA_FILE"):
        Mine.read().credentials()


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (("CERT",), "MILLSTREAM_TLS_KEY_FILE, MILLSTREAM_TLS_CA_FILE too"),
        (("CERT", "KEY"), "MILLSTREAM_TLS_CA_FILE too"),
        (("CA",), "MILLSTREAM_TLS_CERT_FILE, MILLSTREAM_TLS_KEY_FILE too"),
        (("CLIENT_CA",), "MILLSTREAM_TLS_CERT_FILE, MILLSTREAM_TLS_KEY_FILE, MILLSTREAM_TLS_CA_FILE too"),
        (
            ("CERT", "KEY", "CA", "CLIENT_CERT"),
            "both MILLSTREAM_TLS_CLIENT_CERT_FILE and MILLSTREAM_TLS_CLIENT_KEY_FILE",
        ),
    ],
)
def test_tls_by_half_is_refused_and_not_plaintext(
    given: tuple[str, ...], missing: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in given:
        environment.setenv(f"MILLSTREAM_TLS_{name}_FILE", "/somewhere.pem")
    with pytest.raises(SystemExit):
        Mine.read()
    said = capsys.readouterr().err
    assert said.startswith("TLS is set by half, and the other half would go in clear: set ") and missing in said


@pytest.mark.parametrize("line", ["token name", "token name king", "token name reader extra"])
def test_a_wrong_line_of_tokens_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "tokens").write_text(f"# a comment\n\n{line}\n")
    with pytest.raises(SystemExit, match="line 3"):
        Tokens(str(tmp_path / "tokens"), {})


def test_files_of_a_service_that_is_started_alone_are_for_its_user() -> None:
    """`millstream up` has set that for its services already."""
    code = "import os; from servicekit.runtime.settings import Settings; Settings.read(); print(oct(os.umask(0)))"
    alone = ["sh", "-c", f"umask 022; exec {sys.executable} -c '{code}'"]
    ended = subprocess.run(alone, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert ended.stdout.strip() == "0o77", ended.stderr
