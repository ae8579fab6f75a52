"""Next commands work as they are printed: they carry the options by which this command found the platform."""

import pytest

from millstream.cli.hints import PlatformOptions, carrying, with_options
from millstream.cli.output import Screen
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes

BOTH = PlatformOptions("mill", "23100")


@pytest.mark.parametrize(
    ("text", "carried"),
    [
        ("see `millstream status`", "see `millstream status --host mill --port-base 23100`"),
        ("`millstream up` starts one", "`millstream up --port-base 23100` starts one"),
        ("`millstream down --state x`", "`millstream down --state x`"),
        ("add `--port-base 5`", "add `--port-base 5`"),
        ("`millstream runs list --port-base 7`", "`millstream runs list --port-base 7`"),
    ],
)
def test_a_command_carries_the_options_it_takes(text: str, carried: str) -> None:
    assert with_options(text) == text
    with carrying(BOTH):
        assert with_options(text) == carried


def test_options_come_from_the_command_line_then_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert PlatformOptions.of(None, None) == PlatformOptions()
    monkeypatch.setenv("MILLSTREAM_PORT_BASE", "23000")
    assert PlatformOptions.of(None, None) == PlatformOptions("", "23000")
    assert PlatformOptions.of("mill", 50050) == PlatformOptions("mill", "50050")
    monkeypatch.setenv("MILLSTREAM_REGISTRY", "mill:4")
    assert PlatformOptions.of(None, None) == PlatformOptions()
    assert PlatformOptions.of("mill", None) == PlatformOptions("mill", "23000")


def test_json_and_rows_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    with carrying(BOTH):
        Screen(as_json=True).one({"note": "`millstream status`"}, "unused")
    assert "`millstream status`" in capsys.readouterr().out


def test_the_hints_of_services_carry_them_too(cli: Command, platform: str, fakes: Fakes) -> None:
    host, port = platform.split(":")
    words = ("models", "show", "toy", "--host", host, "--port-base", str(int(port) - 4))
    assert f"`millstream release toy --host {host} --port-base {int(port) - 4}`" in cli(*words).stdout
