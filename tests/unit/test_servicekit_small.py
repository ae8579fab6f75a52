"""The small parts: names, pages, errors, traces, events, logs, rows."""

import asyncio
import io
import json
import logging
import re
import uuid
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream import errors
from millstream.dataset.v1.dataset_pb2 import Part, Snapshot
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import InvalidArgument, MillstreamError, to_status
from millstream.trace import continue_trace, trace_id, traceparent
from servicekit import ids, logs
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.parts import pack_rows, read_part, read_split, unpack_rows
from servicekit.bus.port import Received
from servicekit.facts.events import Malformed, NewerEvent, from_message, to_message
from servicekit.paging import DEFAULT_SIZE, LARGEST_SIZE, page


def test_new_ids_are_uuids_of_version_7_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in range(1, 200):
        monkeypatch.setattr("time.time_ns", lambda now=millisecond: 1_700_000_000_000_000_000 + now * 1_000_000)
        made.append(ids.new_id())
    assert made == sorted(made)
    for each in map(uuid.UUID, made):
        assert (each.version, each.variant) == (7, uuid.RFC_4122)
    assert len({ids.new_id() for _ in range(1000)}) == 1000


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_hash_names_its_parts_unambiguously(a: list[str], b: list[str]) -> None:
    assert re.fullmatch("[0-9a-f]{32}", ids.hash_of(*a))
    assert (ids.hash_of(*a) == ids.hash_of(*b)) == (a == b)


def test_a_hash_takes_messages_numbers_and_bytes() -> None:
    message = SnapshotCreated(dataset="words", number=1)
    assert ids.hash_of(message) == ids.hash_of(message.SerializeToString(deterministic=True))
    assert ids.hash_of(1) == ids.hash_of("1") == ids.hash_of(b"1") != ids.hash_of(1, "")


@pytest.mark.parametrize("name", ["a", "words-2", "a" * 63, "0"])
def test_a_good_name(name: str) -> None:
    assert ids.check_name(name, "model") == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a" * 64, "a\n", "ä"])
def test_a_bad_name_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        ids.check_name(name, "spec.model")
    assert refused.value.field == "spec.model"


def test_request_ids() -> None:
    assert ids.check_request_id("a.B_1=~-") == "a.B_1=~-"
    assert uuid.UUID(ids.check_request_id("")).version == 7
    for bad in ("a/b", ".a", "a" * 101, "a\n"):
        with pytest.raises(InvalidArgument):
            ids.check_request_id(bad)


@given(st.integers(0, 30), st.integers(0, 12))
def test_pages_give_every_item_once_in_order(count: int, size: int) -> None:
    items, token, pages = list(range(count)), "", 0
    found: list[int] = []
    while True:
        shown, token = page(items, size, token, str)
        found += shown
        pages += 1
        if not token:
            break
        assert len(shown) == size
    assert found == items
    assert pages == (max(1, -(-count // size)) if size else 1)


def test_pages_have_sizes_and_tokens_that_are_checked() -> None:
    items = list(range(3000))
    assert len(page(items, 0, "", str)[0]) == DEFAULT_SIZE
    assert len(page(items, 10**6, "", str)[0]) == LARGEST_SIZE
    for size, token, field in (
        (-1, "", "page_size"),
        (1, "!!", "page_token"),
        (1, "bm9uZQ==", "page_token"),
        (1, "ä", "page_token"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            page(items, size, token, str)
        assert refused.value.field == field
    _, token = page(items, 10, "", str)
    assert page([-1, *items], 10, token, str)[0][0] == 10, "what came at the front meanwhile moves nothing"


def test_every_error_has_its_own_code_and_a_stable_reason() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MillstreamError)]
    kinds.remove(MillstreamError)
    assert len({kind.code for kind in kinds}) == len(kinds) == 11
    for kind in kinds:
        assert re.fullmatch("[A-Z_]+", kind.default_reason)
        assert kind("x", reason="OTHER").reason == "OTHER"


def test_a_status_always_fits_into_metadata() -> None:
    for sample in ("a", "ä", "తె", "\ud800", "\x00"):
        error = InvalidArgument(sample * 50_000, field=sample * 50_000, name=sample * 50_000)
        assert len(to_status(error).SerializeToString()) < 4096
        assert to_status(error).message.endswith("…")


def test_a_trace_goes_on_as_a_new_span() -> None:
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


def received(**change: Any) -> Received:
    made = to_message(SnapshotCreated(dataset="words", number=3), "words", "id-1", "dataprep")
    fields: dict[str, Any] = {"topic": made.topic, "key": made.key, "value": made.value, "headers": made.headers}
    return Received(**{**fields, **change})


def test_an_event_comes_back_as_it_was_said() -> None:
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


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def test_logs_are_json_lines_with_the_fields_of_their_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    # setup_logs() takes the handlers away, and pytest's own are among them.
    monkeypatch.setattr(root, "handlers", [])
    try:
        logs.setup_logs("trainer", "info")

        async def task(run_id: str) -> None:
            continue_trace("")
            with logs.fields(run_id=run_id):
                await asyncio.sleep(0.001)
                with logs.fields(step="1"):
                    logging.getLogger("x").info("inside", extra={"loss": 0.5})
            logging.getLogger("x").info("outside\nof it")

        await asyncio.gather(task("a"), task("b"))
        logging.getLogger("x").debug("unseen")
        try:
            raise ValueError("తెలుగు \ud800")
        except ValueError:
            logging.getLogger("x").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = lines_of(stream)
    inside = [line for line in lines if line["message"] == "inside"]
    assert {(line["run_id"], line["step"], line["loss"]) for line in inside} == {("a", "1", 0.5), ("b", "1", 0.5)}
    assert len({line["trace_id"] for line in inside}) == 2
    assert all("run_id" not in line for line in lines if line["message"] == "outside\nof it")
    assert "ValueError" in lines[-1]["traceback"] and lines[-1]["level"] == "error"
    assert {line["service"] for line in lines} == {"trainer"} and len(lines) == 5


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, max_size=4)))
def test_rows_come_back_as_they_were(rows: list[dict[str, Any]]) -> None:
    rows.append({"text": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1c\r\ng"})
    assert unpack_rows(pack_rows(rows)) == rows
    assert pack_rows(rows) == pack_rows([dict(reversed(list(row.items()))) for row in rows])


async def test_the_rows_of_a_split_are_read_in_order_and_verified() -> None:
    import hashlib

    blobs = MemoryBlobs()
    snapshot = Snapshot()
    for number, (split, table) in enumerate(
        [("train", "rows"), ("test", "rows"), ("train", ""), ("train", "passages")]
    ):
        data = pack_rows([{"n": number}])
        part = Part(split=split, table=table, key=f"parts/{number}", digest=hashlib.sha256(data).hexdigest())
        snapshot.parts.append(part)
        await blobs.put(part.key, data)
    assert await read_split(blobs, snapshot, "train") == [{"n": 0}, {"n": 2}]
    await blobs.put("parts/0", pack_rows([{"n": 9}]))
    with pytest.raises(InvalidArgument, match="was damaged"):
        await read_part(blobs, snapshot.parts[0])
