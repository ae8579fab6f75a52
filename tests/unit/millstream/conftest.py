"""The fake services as a fixture, and the command line that calls them."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from millstream.cli.app import app
from millstream.defaults import SERVICES
from tests.worlds.fake_services import Fakes, running

Command = Callable[..., Any]


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


@pytest.fixture
def platform(fakes: Fakes) -> Iterator[str]:
    """The address at which all five fake services answer."""
    with running(fakes) as address:
        yield address


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def cli(platform: str, utc: None, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `millstream WORDS` against the fake services; fails on another exit code than `code`."""
    for service in SERVICES:
        monkeypatch.setenv(f"MILLSTREAM_{service.upper()}", platform)

    def run(*words: str, code: int = 0, stdin: str = "") -> Any:
        result = CliRunner().invoke(app, list(words), input=stdin)
        assert result.exit_code == code, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
        return result

    return run
