"""Inference's settings come from MILLSTREAM_ variables, and limits that would serve nothing are refused."""

import pytest
from pydantic import ValidationError

from services.inference.engine.queue import Limits
from services.inference.settings import Settings


def test_the_defaults_are_those_of_the_engine() -> None:
    settings, limits = Settings(), Limits()
    assert (settings.batch_tokens, settings.batch_rows) == (limits.batch_tokens, limits.batch_rows)
    assert (settings.queue_tokens, settings.queue_requests) == (limits.queue_tokens, limits.queue_requests)
    assert (settings.queue_characters, settings.longest_text) == (limits.queue_characters, limits.longest_text)


def test_variables_set_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_BATCH_TOKENS", "99")
    monkeypatch.setenv("MILLSTREAM_REGISTRY", "registry.example:1")
    settings = Settings()
    assert settings.batch_tokens == 99 and settings.registry == "registry.example:1"


@pytest.mark.parametrize(
    "name",
    [
        *("BATCH_TOKENS", "BATCH_ROWS", "QUEUE_TOKENS", "QUEUE_REQUESTS", "QUEUE_CHARACTERS", "LONGEST_TEXT"),
        "PREPARE_THREADS",
    ],
)
def test_a_limit_of_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(f"MILLSTREAM_{name}", "0")
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()
