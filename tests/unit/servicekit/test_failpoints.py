"""A process killed at each failpoint of servicekit: the next process finds the work half done and completes it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message, Received
from servicekit.bus.sqlite.bus import SqliteBus
from servicekit.facts.events import to_message
from servicekit.facts.open_work import OpenWork
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.failpoints import REACHED
from servicekit.ids import hash_of
from servicekit.work.deadletters import DeadLetters
from tests.unit.servicekit.test_outbox import FACTS, KEY, settle
from tests.worlds.work import TOPIC, snapshot

REQUEST_KEY, REQUEST = "evaluations/toy/0000000003/0000000001", EvaluationRequest(model="toy", version=3)
REQUESTS: Announce = {"evaluations/*/*/*": lambda key, data: Fact("toy", EvaluationRequest.FromString(data))}
GOOD = to_message(SnapshotCreated(dataset="a", number=1), "a", "the-event", "dataprep")


def run_in_child(folder: Path, job: str, *failpoints: str) -> int:
    """Run a job below in a process of its own, with these failpoints armed; returns its exit status."""
    armed = folder / "failpoints"
    armed.mkdir(exist_ok=True)
    for name in failpoints:
        (armed / name).touch()
    command = [sys.executable, "-m", "tests.unit.servicekit.test_failpoints", job, str(folder)]
    return subprocess.run(command, env={**os.environ, "TEST_FAILPOINTS": str(armed)}, timeout=60).returncode


def store(folder: Path) -> DirectoryBlobs:
    return DirectoryBlobs(folder / "blobs")


def bus(folder: Path) -> SqliteBus:
    return SqliteBus(folder / "bus")


async def published(folder: Path) -> Sequence[Received]:
    """Every message on the datasets' topic."""
    opened = bus(folder)
    tail = opened.tail([TOPIC], from_start=True)
    found = await tail.batch()
    await opened.close()
    return found


async def stored(folder: Path, prefix: str) -> list[str]:
    return [listed.key async for listed in store(folder).list(prefix)]


async def dead_letters(folder: Path) -> Sequence[DeadLetter]:
    opened = bus(folder)
    found, _ = await DeadLetters(store(folder), opened, "group").page(10, "", False)
    await opened.close()
    return found


# --- jobs that die


async def put_fact(folder: Path) -> None:
    outbox = Outbox(store(folder), bus(folder), "dataprep", FACTS)
    await outbox.put(KEY, b"s1")
    await outbox.flush()


async def put_request(folder: Path) -> None:
    await Outbox(store(folder), MemoryBus(), "evaluator", REQUESTS).put(REQUEST_KEY, REQUEST.SerializeToString())


async def park_fact(folder: Path) -> None:
    await Outbox(store(folder), MemoryBus(), "dataprep", {}).sweep()


async def retry_parked(folder: Path) -> None:
    await Outbox(store(folder), MemoryBus(), "dataprep", {}).retry_parked()


async def replay_letter(folder: Path) -> None:
    group = DeadLetters(store(folder), bus(folder), "group")
    (letter,) = (await group.page(10, "", False))[0]
    await group.replay(letter.id, "ada", "")


async def consume(folder: Path) -> None:
    """Consume one malformed message and one good event, which ends the job."""
    from tests.worlds.waiting import until
    from tests.worlds.work import Thing, working

    opened, thing = bus(folder), Thing()
    async with working(thing, opened, blobs=store(folder)):
        await until(lambda: thing.done["good"])
    await opened.close()


JOBS = {job.__name__: job for job in (put_fact, put_request, park_fact, retry_parked, replay_letter, consume)}


# --- the tests


@pytest.mark.parametrize(("place", "is_stored"), [("marked", False), ("stored", True)])
async def test_between_marker_and_request_no_request_is_lost(tmp_path: Path, place: str, is_stored: bool) -> None:
    died = await asyncio.to_thread(run_in_child, tmp_path, "put_request", f"outbox.evaluations.{place}")
    assert died == -9
    work = OpenWork(store(tmp_path), "evaluator")
    assert [one.fact for one in await work.facts()] == [REQUEST] * is_stored
    await put_request(tmp_path)  # its caller repeats it
    assert [one.fact for one in await work.facts()] == [REQUEST]


@pytest.mark.parametrize(("place", "is_stored"), [("marked", False), ("stored", True), ("published", True)])
async def test_between_marker_object_and_event_no_fact_is_lost(tmp_path: Path, place: str, is_stored: bool) -> None:
    died = await asyncio.to_thread(run_in_child, tmp_path, "put_fact", f"outbox.datasets-ledger.{place}")
    assert died == -9
    assert await store(tmp_path).exists(KEY) == is_stored
    opened = bus(tmp_path)
    outbox = Outbox(store(tmp_path), opened, "dataprep", FACTS)
    await settle(outbox)
    if not is_stored:
        assert await outbox.put(KEY, b"s1"), "its caller got no answer, and retries"
        await outbox.flush()
    await opened.close()
    assert {message.headers["ce_id"] for message in await published(tmp_path)} == {hash_of(KEY).encode()}
    assert await stored(tmp_path, "outbox/") == []


async def test_a_marker_half_parked_is_parked_by_the_next_sweep(tmp_path: Path) -> None:
    await store(tmp_path).put("outbox/dataprep/0", b"\xff no marker")
    assert await asyncio.to_thread(run_in_child, tmp_path, "park_fact", "outbox.parked") == -9
    assert await stored(tmp_path, "outbox") == ["outbox-parked/dataprep/0", "outbox/dataprep/0"]
    assert await asyncio.to_thread(run_in_child, tmp_path, "park_fact") == 0
    assert await stored(tmp_path, "outbox") == ["outbox-parked/dataprep/0"]


async def test_a_marker_half_unparked_is_unparked_by_the_next_start(tmp_path: Path) -> None:
    await store(tmp_path).put("outbox-parked/dataprep/0", b"a marker")
    assert await asyncio.to_thread(run_in_child, tmp_path, "retry_parked", "outbox.unparked") == -9
    assert await stored(tmp_path, "outbox") == ["outbox-parked/dataprep/0", "outbox/dataprep/0"]
    assert await asyncio.to_thread(run_in_child, tmp_path, "retry_parked") == 0
    assert await stored(tmp_path, "outbox") == ["outbox/dataprep/0"]


async def test_a_letter_replayed_without_a_resolution_is_replayed_twice_as_one_event(tmp_path: Path) -> None:
    opened = bus(tmp_path)
    group = DeadLetters(store(tmp_path), opened, "group")
    await group.add(Received(TOPIC, "a", GOOD.value, GOOD.headers, 0, 0), "an older version could not parse it")
    await opened.close()
    assert await asyncio.to_thread(run_in_child, tmp_path, "replay_letter", "operations.replayed") == -9
    assert len(await dead_letters(tmp_path)) == 1, "it is still open"
    assert await asyncio.to_thread(run_in_child, tmp_path, "replay_letter") == 0
    assert await dead_letters(tmp_path) == []
    found = [(message.value, message.headers["ce_id"]) for message in await published(tmp_path)]
    assert found == [(GOOD.value, b"the-event")] * 2


async def test_a_message_dead_lettered_and_not_committed_is_one_letter(tmp_path: Path) -> None:
    opened = bus(tmp_path)
    await opened.publish(Message(TOPIC, "a", b"\xff", GOOD.headers))
    await opened.publish(snapshot("good"))
    await opened.close()
    assert await asyncio.to_thread(run_in_child, tmp_path, "consume", "consumer.dead-lettered") == -9
    assert len(await dead_letters(tmp_path)) == 1
    assert await asyncio.to_thread(run_in_child, tmp_path, "consume") == 0, "the good event is handled"
    assert len(await dead_letters(tmp_path)) == 1


def test_a_failpoint_reports_that_it_was_passed_and_kills_one_process_only(tmp_path: Path) -> None:
    name = "outbox.datasets-ledger.stored"
    assert run_in_child(tmp_path, "put_fact", name + REACHED) == 0
    assert list((tmp_path / "failpoints").iterdir()) == []
    assert run_in_child(tmp_path, "put_fact", name) == -9
    assert run_in_child(tmp_path, "put_fact") == 0


if __name__ == "__main__":
    asyncio.run(JOBS[sys.argv[1]](Path(sys.argv[2])))
