"""deploy.local: its options, settings, lock and ports, without starting a service."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.__main__ import check_ports, locked
from deploy.local.options import arguments, platform_of
from deploy.local.ports import Ports, free_ports, is_free, metrics_base_for


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_")]:
        monkeypatch.delenv(name)


def test_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    platform = platform_of(arguments([]))
    assert platform.state == tmp_path / ".millstream"
    assert platform.ports == Ports(50050, 9100, 1)
    assert [child.name for child in platform.children()] == [
        "dataprep-0", "trainer-0", "evaluator-0", "registry-0", "inference-0",
    ]  # fmt: skip


def test_each_replica_has_ports_a_log_and_the_addresses_of_all(tmp_path: Path) -> None:
    platform = platform_of(arguments(["--state", str(tmp_path), "--port-base", "20000", "--replicas", "2"]))
    children = {child.name: child for child in platform.children()}
    assert len(children) == 10
    environment = children["registry-1"].environment
    assert environment["MILLSTREAM_LISTEN"] == "127.0.0.1:20014"
    assert environment["MILLSTREAM_METRICS_LISTEN"] == "127.0.0.1:20019"
    assert environment["MILLSTREAM_TRAINER"] == "127.0.0.1:20002,127.0.0.1:20012"
    assert environment["MILLSTREAM_BUS"] == f"sqlite:{tmp_path}/bus.sqlite"
    assert children["registry-1"].log == tmp_path / "logs/registry-1.log"


def test_set_overrides_the_environment_which_overrides_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_RESYNC_SECONDS", "7")
    monkeypatch.setenv("MILLSTREAM_LOG_LEVEL", "DEBUG")
    platform = platform_of(arguments(["--set", "resync_seconds=5", "--set", "MILLSTREAM_BLOBS=directory:/x"]))
    environment = platform.children()[0].environment
    assert (environment["MILLSTREAM_RESYNC_SECONDS"], environment["MILLSTREAM_LOG_LEVEL"]) == ("5", "DEBUG")
    assert environment["MILLSTREAM_BLOBS"] == "directory:/x"


@pytest.mark.parametrize("words", [["--replicas", "0"], ["--replicas", "6"], ["--set", "resync_seconds"]])
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(words)
    assert ended.value.code == 2


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("listen=127.0.0.1:1", "deploy.local sets MILLSTREAM_LISTEN itself"),
        ("odd=1", "no service has the setting"),
        ("millstream_odd=1", "no service has the setting MILLSTREAM_ODD"),
        ("token_file=/nothing", "cannot read /nothing: No such file or directory; MILLSTREAM_TOKEN_FILE"),
        ("tls_ca_file=/nothing", "cannot read /nothing: No such file or directory; MILLSTREAM_TLS_CA_FILE"),
    ],
)
def test_a_setting_that_cannot_be_given_is_refused(setting: str, text: str) -> None:
    with pytest.raises(SystemExit, match=text):
        platform_of(arguments(["--set", setting]))


def test_one_platform_per_state_folder(tmp_path: Path) -> None:
    with locked(tmp_path / "state") as lock:
        lock.write("4711")
        lock.flush()
        code = f"from pathlib import Path; from deploy.local.__main__ import locked; locked(Path({str(tmp_path)!r}, 'state')).__enter__()"  # noqa: E501
        second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1 and "(process 4711)" in second.stderr
    with locked(tmp_path / "state"):
        pass


def test_a_taken_port_is_refused_with_its_use() -> None:
    ports = free_ports()
    check_ports(ports, patience=0.0)
    with socket.create_server(("127.0.0.1", ports.base + 9)):
        assert not is_free(ports.base + 9)
        with pytest.raises(SystemExit, match="the metrics of registry"):
            check_ports(ports, patience=0.0)


def test_the_ports_come_from_the_environment_where_no_option_says_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", "23000")
    assert platform_of(arguments([])).ports.base == 23000
    assert platform_of(arguments(["--port-base", "24000"])).ports.base == 24000
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", "many")
    with pytest.raises(SystemExit):
        arguments([])


def test_what_kubernetes_injects_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_REGISTRY_PORT", "tcp://10.0.0.1:9104")
    monkeypatch.setenv("MILLSTREAM_REGISTRY_SERVICE_HOST", "10.0.0.1")
    assert not platform_of(arguments([])).settings


@pytest.mark.parametrize("words", [["--port-base", "65531"], ["--port-base", "-1"], ["--metrics-base", "65600"]])
def test_ports_that_no_machine_has_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments(words)
    assert ended.value.code == 2
    assert f"{words[0]} is {words[1]}: use 0 to 65530, for ports end at 65535" in capsys.readouterr().err


def test_a_state_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("mine")
    for state in (tmp_path / "state", tmp_path / "state" / "below"):
        with pytest.raises(SystemExit, match=r"cannot hold the platform's state .*: name a folder"), locked(state):
            pass
    assert (tmp_path / "state").read_text() == "mine"


def test_metrics_of_two_platforms_do_not_collide() -> None:
    assert (metrics_base_for(50050), metrics_base_for(20000)) == (9100, 20005)
