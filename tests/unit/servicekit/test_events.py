"""Facts as messages of the bus, and back."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.trace import continue_trace, traceparent
from servicekit.bus.port import Received
from servicekit.facts.events import Malformed, NewerEvent, from_message, to_message


def received(**change: Any) -> Received:
    made = to_message(SnapshotCreated(dataset="words", number=3), "words", "id-1", "dataprep")
    fields: dict[str, Any] = {"topic": made.topic, "key": made.key, "value": made.value, "headers": made.headers}
    return Received(**{**fields, **change})


def test_an_event_is_parsed_as_it_was_built() -> None:
    continue_trace("")
    event = from_message(received())
    assert (event.event_id, event.key, event.event_type) == ("id-1", "words", "millstream.dataset.v1.SnapshotCreated")
    assert event.fact == SnapshotCreated(dataset="words", number=3)
    assert event.traceparent == traceparent() and event.time.endswith("Z")


@pytest.mark.parametrize("name", ["ce_specversion", "ce_id", "ce_type", "ce_source"])
def test_an_event_without_its_headers_is_malformed(name: str) -> None:
    headers = {key: value for key, value in received().headers.items() if key != name}
    with pytest.raises(Malformed, match=name):
        from_message(received(headers=headers))


@given(st.binary(max_size=60))
def test_no_bytes_make_an_event_fail_in_another_way(value: bytes) -> None:
    with suppress(Malformed, NewerEvent):
        from_message(received(value=value))
