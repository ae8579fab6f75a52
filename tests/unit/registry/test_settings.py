"""The registry's addresses come from its environment."""

import pytest

from services.registry.settings import Settings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("sys.argv", ["registry"])
    monkeypatch.setattr("os.environ", {"PATH": "/bin"})
    return monkeypatch


def test_the_defaults_are_the_services_of_one_machine() -> None:
    settings = Settings.read()
    assert (settings.listen, settings.metrics_listen) == ("127.0.0.1:50054", "127.0.0.1:9104")
    assert (settings.trainer, settings.evaluator) == ("127.0.0.1:50052", "127.0.0.1:50053")


def test_the_addresses_of_other_services_are_read(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("MILLSTREAM_TRAINER", "trainer-0:50052,trainer-1:50052")
    environment.setenv("MILLSTREAM_EVALUATOR", "evaluator:50053")
    settings = Settings.read()
    assert (settings.trainer, settings.evaluator) == ("trainer-0:50052,trainer-1:50052", "evaluator:50053")
