"""Leases: one holder an attempt; expired once the heartbeat stops, or at once when this host knows that its holder died."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from millstream.errors import Unavailable
from millstream.operations.v1.stored_pb2 import Claim, Heartbeat, Process
from servicekit import processes
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts import lease as module
from servicekit.facts.lease import Leases
from servicekit.processes import is_running, this_process
from tests.worlds.clock import Clock
from tests.worlds.waiting import HANG

LEASE = 10.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class FlakyBlobs(MemoryBlobs):
    away = False
    lose_reply = False

    async def get(self, key: str) -> bytes:
        if self.away:
            raise Unavailable("away")
        return await super().get(key)

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        made = await super().put_if_absent(key, data)
        if self.lose_reply:
            raise Unavailable("the reply was lost")
        return made


async def claimed_elsewhere(blobs: MemoryBlobs) -> Leases:
    leases = Leases(blobs, "runs/attempts/r", LEASE)
    there = Process(host="elsewhere", boot_id="b", pid_namespace="pid:[1]", pid=1, start_time=1)
    await blobs.put(f"{leases.folder(1)}/claim", Claim(number=1, process=there).SerializeToString())
    return leases


async def send_heartbeat(blobs: MemoryBlobs, leases: Leases, count: int) -> None:
    await blobs.put(f"{leases.folder(1)}/heartbeat", Heartbeat(count=count).SerializeToString())


async def test_one_of_many_concurrent_claims_wins() -> None:
    blobs = MemoryBlobs()
    made = await asyncio.gather(*(Leases(blobs, "p", LEASE).claim(1) for _ in range(10)))
    assert sum(made) == 1
    leases = Leases(blobs, "p", LEASE)
    assert await leases.newest() == 1
    assert await leases.claim(2)
    assert await leases.newest() == 2
    assert (await leases.read(2)).process == this_process()
    assert await Leases(blobs, "other", LEASE).newest() == 0


async def test_a_claim_whose_reply_was_lost_belongs_to_its_caller() -> None:
    blobs = FlakyBlobs()
    mine, other = Leases(blobs, "p", LEASE), Leases(blobs, "p", LEASE)
    blobs.lose_reply = True
    with pytest.raises(Unavailable):
        await mine.claim(1)
    blobs.lose_reply = False
    assert not await other.claim(1)
    assert await mine.claim(1)
    assert not await mine.claim(1), "a confirmed claim is not claimed twice"


async def test_a_lease_expires_when_its_heartbeat_stops(clock: Clock) -> None:
    blobs = MemoryBlobs()
    leases = await claimed_elsewhere(blobs)
    for count in range(1, 4):
        await send_heartbeat(blobs, leases, count)
        clock.now += LEASE - 1
        assert await leases.is_alive(1)
    clock.now += LEASE - 1
    assert await leases.is_alive(1)
    clock.now += 1
    assert not await leases.is_alive(1)
    await send_heartbeat(blobs, leases, 4)
    assert await leases.is_alive(1), "it was only slow"


async def test_a_holder_that_never_sent_a_heartbeat_has_a_lease_too(clock: Clock) -> None:
    leases = await claimed_elsewhere(MemoryBlobs())
    assert await leases.is_alive(1)
    clock.now += LEASE
    assert not await leases.is_alive(1)


async def test_a_failed_read_starts_the_lease_anew(clock: Clock) -> None:
    blobs = FlakyBlobs()
    leases = await claimed_elsewhere(blobs)
    await send_heartbeat(blobs, leases, 1)
    assert await leases.is_alive(1)
    clock.now += LEASE - 1
    blobs.away = True
    with pytest.raises(Unavailable):
        await leases.is_alive(1)
    blobs.away = False
    clock.now += 2
    assert await leases.is_alive(1)
    clock.now += LEASE - 1
    assert await leases.is_alive(1)
    clock.now += 1
    assert not await leases.is_alive(1)


async def test_a_holder_sends_heartbeats_while_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_SECONDS", 0.001)
    blobs = FlakyBlobs()
    leases = Leases(blobs, "p", LEASE)
    await leases.claim(1)

    async def count() -> int:
        return Heartbeat.FromString(await blobs.get(f"{leases.folder(1)}/heartbeat")).count

    async with leases.holding(1), asyncio.timeout(HANG):
        while not await blobs.exists(f"{leases.folder(1)}/heartbeat"):
            await asyncio.sleep(0)
        before = await count()
        while await count() < before + 3:
            await asyncio.sleep(0.001)
    at_the_end = await count()
    await asyncio.sleep(0.01)
    assert await count() == at_the_end


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    """A process that has printed how this host names it, and waits."""
    code = (
        "from servicekit.processes import this_process; import sys, time\n"
        "sys.stdout.write(this_process().SerializeToString().hex() + '\\n'); sys.stdout.flush(); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
async def test_this_host_proves_a_death_at_once_also_of_a_zombie(child: subprocess.Popen[str]) -> None:
    assert child.stdout
    named = Process.FromString(bytes.fromhex(await asyncio.to_thread(child.stdout.readline)))
    assert named.pid == child.pid
    blobs = MemoryBlobs()
    leases = Leases(blobs, "p", 3600.0)
    await blobs.put(f"{leases.folder(1)}/claim", Claim(number=1, process=named).SerializeToString())
    await send_heartbeat(blobs, leases, 1)
    assert is_running(named) and await leases.is_alive(1)
    child.send_signal(signal.SIGKILL)
    async with asyncio.timeout(HANG):
        while await leases.is_alive(1):
            await asyncio.sleep(0.005)
    # Its parent has not waited for it yet: a zombie counts as dead.
    os.kill(child.pid, 0)
    child.wait()
    assert not await leases.is_alive(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
async def test_a_process_that_is_there_and_sends_no_heartbeat_loses_its_lease(clock: Clock) -> None:
    """It hangs."""
    blobs = MemoryBlobs()
    leases = Leases(blobs, "p", LEASE)
    assert await leases.claim(1)
    for count in (1, 2):
        await send_heartbeat(blobs, leases, count)
        assert await leases.is_alive(1)
        clock.now += LEASE - 1
    assert await leases.is_alive(1)
    clock.now += 1
    assert is_running(this_process()) and not await leases.is_alive(1)
    leases.restart(1)
    assert await leases.is_alive(1), "what was seen of its heartbeat proved nothing"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_only_a_process_of_this_host_and_boot_is_known_to_be_dead() -> None:
    mine = this_process()
    assert is_running(mine) is True
    for change in ({"host": "other"}, {"boot_id": "other"}, {"pid_namespace": "other"}):
        other = Process()
        other.CopyFrom(mine)
        for name, value in change.items():
            setattr(other, name, value)
        assert is_running(other) is None
    reused = Process()
    reused.CopyFrom(mine)
    reused.start_time += 1
    assert is_running(reused) is False, "the number was given to another process"
    assert is_running(Process(host="elsewhere", pid=1)) is None


async def test_concurrent_calls_count_the_newest_attempt_once() -> None:
    leases = Leases(MemoryBlobs(), "tries", 10)
    await leases.claim(1)
    asked = Leases(leases.blobs, "tries", 10)
    assert set(await asyncio.gather(*(asked.newest() for _ in range(8)))) == {1}
    assert await asked.newest() == 1


def test_a_process_of_this_host_is_named_by_its_pid_now_or_by_its_start() -> None:
    mine = this_process()
    assert processes.process_here(mine.pid) == mine == processes.process_here(mine.pid, mine.start_time)
    assert not is_running(processes.process_here(mine.pid, mine.start_time + 1)), "a pid that was given out again"
    assert not is_running(processes.process_here(2**22 + 1)), "a pid that is not in use"


@pytest.mark.parametrize("turns", range(8))
async def test_a_holder_that_is_cancelled_while_it_lets_go_stays_cancelled(turns: int) -> None:
    leases = Leases(MemoryBlobs(), "p", LEASE)
    released = asyncio.Event()

    async def work() -> None:
        async with leases.holding(1):
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await released.wait()

    task = asyncio.create_task(work())
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await task
