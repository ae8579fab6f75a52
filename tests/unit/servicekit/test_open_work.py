"""Open work: what a fact asks of a service is listed until it is done, however the events fare, and nothing else is."""

import asyncio

import pytest

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import InvalidArgument, MillstreamError, Unavailable
from millstream.operations.v1.stored_pb2 import OpenMarker
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.faulty import DroppingBus
from servicekit.bus.memory import MemoryBus
from servicekit.facts.markers import ORPHAN_SECONDS, fact_id_of
from servicekit.facts.open_work import OpenFact, OpenWork, open_work_on
from servicekit.facts.outbox import Outbox
from tests.worlds.clock import ClockedBlobs
from tests.worlds.open_work import (
    FACT,
    FACTS,
    IMPORT,
    KEY,
    Running,
    open_keys,
    trainer,
    until_none_is_open,
)
from tests.worlds.waiting import until
from tests.worlds.work import Thing, ThingKey, quick

pytestmark = pytest.mark.usefixtures("quick")
__all__ = ["quick"]


async def test_a_fact_is_open_for_each_service_that_acts_on_it_and_for_no_other() -> None:
    blobs = MemoryBlobs()
    await open_work_on(blobs, "models/toy/spec/0000000001", ModelApplied(model="toy", dataset="words"))
    await open_work_on(blobs, "models/toy/aliases/shadow/0000000001", AliasMoved(model="toy", alias="shadow"))
    assert {key.split("/")[1] for key in await open_keys(blobs)} == {"trainer", "registry"}


async def test_it_is_open_until_its_reconcile_found_nothing_left_to_do() -> None:
    async def do(name: str) -> float | None:
        return 0.001 if thing.done[name] < 5 else None

    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing(do)
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await outbox.put(KEY, b"s1")
    assert await open_keys(blobs) == [f"open/trainer/{OpenFact(fact_id_of(KEY), FACT).marker_id}"]
    async with Running(trainer(blobs, bus, thing)):
        await until(lambda: thing.done["words"] >= 3)
        assert await open_keys(blobs), "the reconcile has asked to be called again"
        await until(lambda: thing.done["words"] == 5)
        await until_none_is_open(blobs)


@pytest.mark.parametrize("resyncs", [0.01, 3600.0], ids=["while it runs", "at its start"])
async def test_a_fact_whose_event_was_lost_is_found_among_what_is_open(resyncs: float) -> None:
    blobs, bus, thing = MemoryBlobs(), DroppingBus(MemoryBus()), Thing()
    work = trainer(blobs, bus, thing, resyncs)
    if resyncs > 1:
        await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
    async with Running(work):
        if resyncs < 1:
            await until(lambda: thing.resyncs)
            await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
        await until(lambda: thing.done["words"])
        await until_none_is_open(blobs)
    assert thing.resyncs == 1, "all that is stored is compared at the start alone"


async def test_what_is_retried_or_waits_is_found_by_another_replica() -> None:
    async def fail(name: str) -> None:
        raise Unavailable("the peer is away")

    blobs, bus = MemoryBlobs(), MemoryBus()
    first, second = Thing(fail), Thing()
    await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
    async with Running(trainer(blobs, bus, first)):
        await until(lambda: first.done["words"] > 3)
    assert await open_keys(blobs), "the replica has died with its work"
    async with Running(trainer(blobs, MemoryBus(), second)):
        await until(lambda: second.done["words"])
        await until_none_is_open(blobs)


async def test_a_resync_leaves_what_waits_for_its_time_alone() -> None:
    """Ten thousand imports that wait for one another are not all tried again at each resync."""

    async def later(name: str) -> float:
        return 3600.0

    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing(later)
    await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
    work = trainer(blobs, bus, thing, 0.01)
    looks = 0
    facts = work.open_work.facts

    async def counted() -> list[OpenFact]:
        nonlocal looks
        looks += 1
        return await facts()

    work.open_work.facts = counted  # type: ignore[method-assign]
    async with Running(work):
        await until(lambda: looks > 5)
    assert thing.done["words"] <= 2, "by its event, and by the first look"


async def test_what_has_ended_for_good_is_open_no_more() -> None:
    async def refuse(name: str) -> None:
        raise InvalidArgument("no")

    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing(refuse)
    await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
    async with Running(trainer(blobs, bus, thing)):
        await until(lambda: thing.ended)
        await until_none_is_open(blobs)


@pytest.mark.parametrize("gives_up", ["an end that records nothing", "an end that fails"])
async def test_what_is_given_up_without_an_end_is_tried_again_by_the_next_resync(gives_up: str) -> None:
    """Such as automatic training after three errors of a peer: nothing has ended, so it stays open."""

    async def fail(name: str) -> None:
        if thing.done[name] <= 3:
            raise RuntimeError("a bug of a peer, for a moment")

    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing(fail)
    thing.records_ends = False
    thing.end_errors = [InvalidArgument("no")] if gives_up == "an end that fails" else []
    await Outbox(blobs, bus, "dataprep", FACTS).put(KEY, b"s1")
    async with Running(trainer(blobs, DroppingBus(MemoryBus()), thing)) as work:
        await until(lambda: thing.done["words"] == 3 and not work._states)
        assert await open_keys(blobs), "nothing has ended, and nothing is left that would find it"
        await work.resync()
        await until(lambda: thing.done["words"] == 4)
        await until_none_is_open(blobs)


async def test_a_fact_that_comes_while_its_key_is_given_up_is_done_by_the_next_reconcile() -> None:
    second, other = "datasets/words/ledger/0000000002", SnapshotCreated(dataset="words", number=2)

    async def do(name: str) -> None:
        if thing.done[name] == 1:
            raise InvalidArgument("no")

    class GivenUp(Thing):
        async def end(self, key: ThingKey, error: MillstreamError) -> bool:
            await blobs.put(second, b"s2")
            await open_work_on(blobs, second, other)
            await work.receive(OpenFact(fact_id_of(second), other))
            return False

    blobs, thing = MemoryBlobs(), GivenUp(do)
    await Outbox(blobs, MemoryBus(), "dataprep", FACTS).put(KEY, b"s1")
    async with Running(trainer(blobs, DroppingBus(MemoryBus()), thing)) as work:
        await until(lambda: thing.done["words"] == 2 and not work._states)
        given_up = f"open/trainer/{OpenFact(fact_id_of(KEY), FACT).marker_id}"
        assert await open_keys(blobs) == [given_up], "the first waits for the next resync"


async def test_a_fact_stored_while_its_key_is_reconciled_stays_open_for_the_next_reconcile() -> None:
    """Such as the report on a second version while the first is being promoted."""
    gates = [asyncio.Event(), asyncio.Event()]

    async def do(name: str) -> None:
        await gates[thing.done[name] - 1].wait()

    blobs, thing = MemoryBlobs(), Thing(do)
    work = trainer(blobs, MemoryBus(), thing)
    facts = [SnapshotCreated(dataset="words", number=number) for number in (1, 2)]
    keys = [f"datasets/words/ledger/{number:010d}" for number in (1, 2)]

    async def store(number: int) -> None:
        await blobs.put(keys[number], b"s")
        await open_work_on(blobs, keys[number], facts[number])

    await store(0)
    async with Running(work):
        await until(lambda: thing.running)
        await store(1)
        await work.receive(OpenFact(fact_id_of(keys[1]), facts[1]))
        gates[0].set()
        await until(lambda: thing.done["words"] == 2)
        left = f"open/trainer/{OpenFact(fact_id_of(keys[1]), facts[1]).marker_id}"
        assert left in await open_keys(blobs), "nobody has acted on it yet"
        gates[1].set()
        await until_none_is_open(blobs)


async def test_of_two_writers_of_one_object_the_fact_that_is_stored_stays_open() -> None:
    """The marker of the loser, which may be put last, does not stand for the winner's fact."""
    blobs = MemoryBlobs()
    won, lost = ModelApplied(model="toy", dataset="won"), ModelApplied(model="toy", dataset="lost")
    key = "models/toy/spec/0000000001"
    await open_work_on(blobs, key, won)
    await blobs.put_if_absent(key, b"won")
    await open_work_on(blobs, key, lost)
    work = OpenWork(blobs, "trainer")
    assert {one.fact.dataset for one in await work.facts()} == {"won", "lost"}  # type: ignore[attr-defined]
    await work.done(OpenFact(fact_id_of(key), lost).marker_id)
    assert [one.fact for one in await work.facts()] == [won]


async def test_a_marker_whose_fact_names_another_object_is_no_fact_of_that_object() -> None:
    """Such as one that was copied by hand: the run that it names may not be stored at all."""
    blobs = MemoryBlobs()
    await blobs.put(KEY, b"s1")
    for number in (1, 2):
        await open_work_on(blobs, KEY, SnapshotCreated(dataset="words", number=number))
    work = OpenWork(blobs, "trainer")
    found = await work.of_kind(SnapshotCreated, lambda fact: f"datasets/{fact.dataset}/ledger/{fact.number:010d}")
    assert found == [FACT] and len(await work.facts()) == 2


async def test_a_stored_message_that_is_not_published_is_open_for_its_own_service() -> None:
    blobs, bus = MemoryBlobs(), MemoryBus()
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    await outbox.put("datasets/words/imports/r1", IMPORT.SerializeToString())
    await outbox.flush()
    assert bus.log == [] and [key async for key in blobs.list("outbox/")] == []
    assert [one.fact for one in await OpenWork(blobs, "dataprep").facts()] == [IMPORT]


async def test_a_marker_waits_for_its_fact_and_is_an_orphan_after_an_hour_of_the_stores_clock() -> None:
    blobs = ClockedBlobs()
    await open_work_on(blobs, KEY, SnapshotCreated(dataset="words"))
    work = OpenWork(blobs, "trainer")
    blobs.ahead = ORPHAN_SECONDS - 60
    assert await work.facts() == [] and await open_keys(blobs), "its writer may be about to store the fact"
    blobs.ahead = ORPHAN_SECONDS + 60
    assert await work.facts() == [] and not await open_keys(blobs), "its writer died"


async def test_a_fact_that_is_stored_after_its_marker_was_seen_is_found() -> None:
    blobs = MemoryBlobs()
    await open_work_on(blobs, KEY, SnapshotCreated(dataset="words"))
    work = OpenWork(blobs, "trainer")
    assert await work.facts() == []
    await blobs.put(KEY, b"s1")
    assert [one.fact for one in await work.facts()] == [SnapshotCreated(dataset="words")]


async def test_a_marker_of_a_later_version_is_left_and_a_damaged_one_deleted() -> None:
    blobs = MemoryBlobs()
    later = OpenMarker(key=KEY)
    later.fact.type_url = "type.googleapis.com/millstream.dataset.v9.NotYet"
    await blobs.put(f"open/trainer/{'0' * 32}", later.SerializeToString())
    await blobs.put(f"open/trainer/{'1' * 32}", b"")
    odd = OpenMarker(key="../no key")
    odd.fact.Pack(FACT)
    await blobs.put(f"open/trainer/{'2' * 32}", odd.SerializeToString())
    await blobs.put(KEY, b"s1")
    work = OpenWork(blobs, "trainer")
    assert await work.facts() == [] and work.damaged == 2
    assert await open_keys(blobs) == [f"open/trainer/{'0' * 32}"]


async def test_a_damaged_marker_has_all_compared_at_once() -> None:
    blobs, thing = MemoryBlobs(), Thing()
    work = trainer(blobs, MemoryBus(), thing, 0.01)
    async with Running(work):
        await until(lambda: thing.resyncs == 1)
        thing.open_keys = ["words"]
        await blobs.put(f"open/trainer/{'1' * 32}", b"")
        await until(lambda: thing.done["words"])


async def test_an_event_with_an_id_of_its_own_does_no_harm() -> None:
    blobs, bus, thing = MemoryBlobs(), MemoryBus(), Thing()
    async with Running(trainer(blobs, bus, thing)) as work:
        await work.receive(OpenFact("../../models/toy", SnapshotCreated(dataset="words")))
        await until(lambda: thing.done["words"] and work._states == {})
