"""Traces continue from caller to service."""

import re

import pytest

from millstream.trace import continue_trace, trace_id, traceparent


def test_a_trace_continues_as_a_new_span() -> None:
    first = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    continue_trace(first)
    assert trace_id() == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert traceparent().startswith(first[:36]) and traceparent().endswith("-01") and traceparent() != first
    assert traceparent() == traceparent()


@pytest.mark.parametrize(
    "bad",
    ["", "x", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"],
)
def test_a_malformed_trace_starts_a_new_one(bad: str) -> None:
    continue_trace(bad)
    first = trace_id()
    assert re.fullmatch("[0-9a-f]{32}", first)
    continue_trace(bad)
    assert trace_id() != first
