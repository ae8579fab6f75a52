"""`millstream events` on fake services."""

import json
from collections.abc import Iterator

import pytest

from millstream import Client
from millstream.operations.v1 import operations_service_pb2 as operations
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes


def test_the_tail_ends_after_count_events(cli: Command, fakes: Fakes) -> None:
    shown = cli("events", "tail", "--count", "2", "--topic", "millstream.dataset.v1").stdout
    assert shown.splitlines() == [f'2026-09-21 14:13:20  SnapshotCreated  {{"number": {number}}}' for number in (0, 1)]
    assert list(fakes.last(operations.TailEventsRequest).topics) == ["millstream.dataset.v1"]


def test_the_tail_of_so_many_events_waits_for_no_more(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def events(client: Client, topics: object) -> Iterator[operations.TailEventsResponse]:
        yield operations.TailEventsResponse(event_type="SnapshotCreated")
        raise AssertionError("it waits for another event")

    monkeypatch.setattr(Client, "events", events)
    assert cli("events", "tail", "--count", "1").stdout.count("SnapshotCreated") == 1


def test_without_a_count_every_event_is_a_json_line(cli: Command) -> None:
    found = [json.loads(line) for line in cli("events", "tail", "-o", "json").stdout.splitlines()]
    assert [event["event_type"] for event in found] == ["SnapshotCreated"] * 5
