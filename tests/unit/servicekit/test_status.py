"""The status of a replica is what its parts last reported."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from millstream.errors import DataLoss, Unavailable
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Listed
from servicekit.build_info import BuildInfo
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.rpc.health import Health
from servicekit.runtime.probes import DependencyProbe
from servicekit.runtime.status import Status
from servicekit.work.damage import Damage
from servicekit.work.queue import Work
from servicekit.work.storage import Kind, Storage
from tests.worlds.work import HANDLERS, ThingKey

BUILD = BuildInfo("0123abcd", dirty=True)


async def checked(check: Callable[[], Awaitable[None]], health: Health, name: str) -> DependencyProbe:
    """A probe after its first check."""
    probe = DependencyProbe(name, check, health.set, pause=60.0, pause_in_incident=60.0)
    running = asyncio.create_task(probe.run())
    with suppress(Unavailable):
        await probe.require()
    running.cancel()
    await asyncio.wait([running])
    return probe


async def no_broker() -> None:
    raise Unavailable("no broker: start it")


async def test_it_reports_build_readiness_and_both_dependencies() -> None:
    health, blobs = Health(), MemoryBlobs()
    store, events = await checked(blobs.check, health, "blobs"), await checked(no_broker, health, "bus")
    await health.set_ready("no model")
    status = Status("inference", health, store, events).message(BUILD)
    assert (status.service, status.commit, status.dirty) == ("inference", "0123abcd", True)
    assert (status.ready, status.not_ready_reason) == (False, "no model")
    assert status.blobs.ok and status.blobs.HasField("last_success_time")
    assert (status.bus.ok, status.bus.problem) == (False, "no broker: start it")
    assert not status.bus.HasField("last_success_time")
    assert not status.HasField("consumer") and not status.HasField("outbox")


async def test_it_reports_consumer_and_outbox_where_there_are_any() -> None:
    health, blobs, bus = Health(), MemoryBlobs(), MemoryBus()
    probe = await checked(blobs.check, health, "blobs")
    consumer = Work(blobs, bus, "trainer", HANDLERS, [], resync_seconds=60).consumer
    outbox = Outbox(blobs, bus, "trainer", {})
    status = Status("trainer", health, probe, probe, consumer, outbox)
    assert not status.message(BUILD).consumer.HasField("last_read_time"), "it has read nothing yet"
    consumer.lag, consumer.last_read, consumer.flood = 3, 1_000_000_000.0, "too many malformed messages"
    consumer.incident.report("no broker")
    outbox.pending, outbox.parked = 5, 2
    found = status.message(BUILD)
    assert (found.consumer.lag, found.consumer.problem) == (3, "no broker")
    assert found.consumer.flood == "too many malformed messages"
    assert found.consumer.last_read_time.seconds == 1_000_000_000
    assert (found.outbox.pending, found.outbox.parked, found.outbox.problem) == (5, 2, "")


async def test_a_service_without_handlers_has_no_consumer_to_report() -> None:
    health, blobs, bus = Health(), MemoryBlobs(), MemoryBus()
    probe = await checked(blobs.check, health, "blobs")
    consumer = Work(blobs, bus, "dataprep", {}, [], resync_seconds=60).consumer
    assert not Status("dataprep", health, probe, probe, consumer).message(BUILD).HasField("consumer")


async def test_it_names_the_damaged_objects_that_its_work_has_met() -> None:
    health, blobs = Health(), MemoryBlobs()
    probe = await checked(blobs.check, health, "blobs")
    damage = Damage()
    damage.tried(ThingKey("words"), DataLoss("a/b is damaged"))
    assert list(Status("trainer", health, probe, probe, damage=damage).message(BUILD).damaged) == ["a/b is damaged"]


async def test_it_reports_what_is_stored_once_all_was_listed() -> None:
    health, blobs = Health(), MemoryBlobs()
    probe = await checked(blobs.check, health, "blobs")
    storage = Storage(blobs, "thing", [Kind("things", ("things/*",)), Kind("scraps", ("scraps/*",), 0.0, every)])
    status = Status("thing", health, probe, probe, storage=storage)
    assert not status.message(BUILD).HasField("storage_time") and not status.message(BUILD).storage
    await blobs.put("things/a", b"12345")
    await blobs.put("scraps/a", b"123")
    await storage.look()
    found = status.message(BUILD)
    assert found.HasField("storage_time")
    things, scraps = found.storage[:2]
    assert (things.kind, things.objects, things.size_bytes, things.HasField("keep")) == ("things", 1, 5, False)
    assert (scraps.objects, scraps.deleted_objects, scraps.deleted_bytes, scraps.HasField("keep")) == (0, 1, 3, True)


async def every(old: Sequence[Listed]) -> list[str]:
    return [listed.key for listed in old]
