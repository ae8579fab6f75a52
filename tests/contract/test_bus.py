"""Every bus passes the same suite; below it, what only the SQLite file can show."""

import asyncio
import resource
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from millstream.errors import InvalidArgument, Unavailable
from servicekit.bus.faulty import DroppingBus, DuplicatingBus
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import MAX_VALUE, Bus, Message
from servicekit.bus.sqlite.bus import GroupMember, SqliteBus
from servicekit.bus.sqlite.log import Log, assign
from servicekit.runtime.backends import open_bus
from servicekit.runtime.settings import Settings
from tests.suites.bus import BusContract, assert_quiet, collect, publish
from tests.suites.processes import child, finish
from tests.suites.shared_bus import SharedBusContract
from tests.worlds.waiting import HANG, until


class TestMemoryBus(BusContract):
    buses: ClassVar[dict[Path, MemoryBus]] = {}

    def make(self, tmp_path: Path) -> Bus:
        return self.buses.setdefault(tmp_path, MemoryBus())


class TestSqliteBus(SharedBusContract):
    def make(self, tmp_path: Path) -> SqliteBus:
        return SqliteBus(tmp_path / "deep" / "bus.sqlite")

    def address(self, tmp_path: Path) -> str:
        return f"sqlite:{tmp_path / 'deep' / 'bus.sqlite'}"

    async def test_ten_processes_make_the_file_at_the_same_moment(self, tmp_path: Path) -> None:
        for attempt in range(5):
            place = tmp_path / str(attempt)
            place.mkdir()
            await finish(await child("publish", self.address(place), "topic", "10", "1"))
            bus = self.make(place)
            assert len(await collect(bus.tail(["topic"], from_start=True), 10)) == 10
            await bus.close()

    async def test_members_in_two_processes_get_equal_shares(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other:
            members = [bus.subscribe("group", ["topic"]), other.subscribe("group", ["topic"])]
            for member in members:
                await member.start()
            await publish(bus, "topic", range(100), keys=100)
            shares = [await member.batch() for member in members]
        partitions = [{message.partition for message in share} for share in shares]
        assert [len(share) for share in partitions] == [2, 2]
        assert not partitions[0] & partitions[1]
        assert len(shares[0]) + len(shares[1]) == 100

    async def test_a_commit_after_losing_a_partition_is_ignored(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other:
            await publish(bus, "topic", range(100), keys=100)
            slow = bus.subscribe("group", ["topic"])
            await collect(slow, 100)
            newer = other.subscribe("group", ["topic"])
            taken = {message.value for message in await newer.batch()}
            assert 0 < len(taken) < 100
            await slow.commit()
            await slow.close()
            await newer.close()
            third = bus.subscribe("group", ["topic"])
            assert {message.value for message in await third.batch()} == taken

    async def test_a_member_whose_lease_was_removed_joins_again(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other:
            member = bus.subscribe("group", ["topic"])
            await member.start()
            rival = other.subscribe("group", ["topic"])
            await rival.start()
            assert isinstance(member, GroupMember)
            log = Log(tmp_path / "deep" / "bus.sqlite", 5.0)
            log.leave(member.name)
            assert not log.held(member.name)
            async with asyncio.timeout(HANG):
                while len(log.held(member.name)) != 2:
                    await asyncio.sleep(0.05)
            log.close()

    async def test_leases_from_before_a_reboot_are_void(self, tmp_path: Path) -> None:
        log = Log(tmp_path / "bus.sqlite", 5.0)
        for member in ("before", "living"):
            log.join("group", ["topic"], member)
        assert len(log.held("before")) == len(log.held("living")) == 2
        log.expel()
        assert len(log.held("before")) == 2
        with log.writing() as db:
            db.execute("UPDATE members SET expires = expires + 1e6 WHERE member = 'before'")
        log.expel()
        assert not log.held("before")
        assert len(log.held("living")) == 4
        log.close()

    async def test_keeps_the_newest_messages_of_each_topic(self, tmp_path: Path) -> None:
        bus = SqliteBus(tmp_path / "bus.sqlite", retain=40)
        await publish(bus, "quiet", range(5))
        await publish(bus, "busy", range(500))
        quiet, busy = (bus.tail([topic], from_start=True) for topic in ("quiet", "busy"))
        assert await quiet.lag() == 5
        kept = sorted(int(message.value) for message in await busy.batch())
        assert kept == list(range(500 - len(kept), 500))
        assert 40 <= len(kept) <= 50
        member = bus.subscribe("group", ["busy"])
        assert len(await collect(member, len(kept))) == len(kept)
        await bus.close()

    async def test_a_file_that_is_no_database_is_unavailable(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        path.write_bytes(b"this is not a database at all " * 100)
        bus = SqliteBus(path)
        for attempt in (bus.check(), bus.publish(Message("t", "k", b"")), bus.subscribe("g", ["t"]).batch()):
            with pytest.raises(Unavailable, match=r"bus\.sqlite.*move it away"):
                await attempt
        path.unlink()
        await bus.publish(Message("t", "k", b""))
        await bus.close()

    async def test_a_waiting_subscription_raises_when_the_file_breaks(self, tmp_path: Path) -> None:
        path = tmp_path / "bus.sqlite"
        bus = SqliteBus(path)
        member = bus.subscribe("group", ["topic"])
        assert isinstance(member, GroupMember)
        waiting = asyncio.create_task(member.batch())
        await until(lambda: member.started)
        await bus.in_thread(Log.end)  # its first read, which found nothing, was in the thread before
        (tmp_path / "broken").write_bytes(b"this is not a database at all " * 100)
        for side in ("-wal", "-shm"):
            path.with_name(path.name + side).unlink()
        (tmp_path / "broken").replace(path)
        with pytest.raises(Unavailable, match="move it away"):
            await asyncio.wait_for(waiting, HANG)
        path.unlink()
        await bus.publish(Message("topic", "k", b"again"))
        assert [message.value for message in await collect(member, 1)] == [b"again"]
        await bus.close()

    async def test_a_path_that_cannot_be_made_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        for path in (tmp_path, tmp_path / "file" / "bus.sqlite"):
            bus = SqliteBus(path)
            with pytest.raises(Unavailable, match=str(path)):
                await bus.check()
            await bus.close()

    async def test_a_file_locked_for_long_is_unavailable_and_then_works(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("servicekit.bus.sqlite.bus._LOCK_SECONDS", 0.1)
        bus = self.make(tmp_path)
        await bus.check()
        holder = sqlite3.connect(bus.path, isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            await bus.publish(Message("topic", "k", b"v"))
        holder.execute("ROLLBACK")
        holder.close()
        await bus.publish(Message("topic", "k", b"v"))
        await bus.close()

    async def test_a_full_disk_is_unavailable_and_loses_nothing(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus:
            kept = 0
            with largest_file(3 << 20), pytest.raises(Unavailable, match=r"bus\.sqlite.*free space"):
                for _ in range(10):
                    await bus.publish(Message("topic", "k", b"x" * MAX_VALUE))
                    kept += 1
            assert kept > 0
            await bus.publish(Message("topic", "k", b"last"))
            assert len(await collect(bus.tail(["topic"], from_start=True), kept + 1)) == kept + 1

    async def test_a_replaced_file_is_noticed(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus:
            await publish(bus, "topic", range(10))
            tail, member = bus.tail(["topic"]), bus.subscribe("group", ["topic"])
            await tail.start()
            await collect(member, 10)
            for file in (tmp_path / "deep").iterdir():
                file.unlink()
            await publish(bus, "topic", [10])
            assert [m.value for m in await collect(tail, 1)] == [b"10"]
            assert [m.value for m in await collect(member, 1)] == [b"10"]

    async def test_a_position_in_a_replaced_file_is_not_committed_to_the_new_one(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus:
            await publish(bus, "topic", range(10))
            member = bus.subscribe("group", ["topic"])
            assert isinstance(bus, SqliteBus) and isinstance(member, GroupMember)
            await collect(member, 10)
            for file in (tmp_path / "deep").iterdir():
                file.unlink()
            await publish(bus, "topic", [10])
            await bus.in_thread(lambda log: log.renew({member.name: (member.group, member.topics)}))
            await member.commit()
            assert await member.lag() == 1, "the new file's message counts as handled, since the old file had as many"

    async def test_a_fork_shares_nothing(self, tmp_path: Path) -> None:
        await finish(await child("fork", self.address(tmp_path), "topic", "3"))
        async with self.bus(tmp_path) as bus:
            found = await collect(bus.tail(["topic"], from_start=True), 5)
            assert sorted(message.value for message in found) == [b"0", b"1", b"2", b"after", b"before"]

    async def test_a_closed_bus_is_unavailable(self, tmp_path: Path) -> None:
        bus = self.make(tmp_path)
        await bus.publish(Message("topic", "k", b"v"))
        await bus.close()
        await bus.close()
        with pytest.raises(Unavailable, match="closed"):
            await bus.publish(Message("topic", "k", b"v"))


def test_assignment_is_even_and_moves_little() -> None:
    empty: dict[int, str | None] = dict.fromkeys(range(4))
    alone = assign(empty, ["a"])
    assert alone == dict.fromkeys(range(4), "a")
    two = assign(alone, ["a", "b"])
    assert sorted(owner or "" for owner in two.values()) == ["a", "a", "b", "b"]
    three = assign(two, ["a", "b", "c"])
    assert sum(1 for partition in two if two[partition] != three[partition]) == 1
    assert assign(three, ["b"]) == dict.fromkeys(range(4), "b")
    assert assign(three, []) == empty
    assert len(set(assign(empty, list("abcdef")).values())) == 4


async def test_faulty_buses_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_BUS", "duplicating")
    duplicating = open_bus(Settings(bus="memory:"))
    assert isinstance(duplicating, DuplicatingBus)
    await publish(duplicating, "topic", range(3))
    found = await duplicating.subscribe("group", ["topic"]).batch()
    assert [int(message.value) for message in found] == [2, 1, 0] * 3
    monkeypatch.setenv("TEST_BUS", "dropping")
    dropping = open_bus(Settings(bus=f"sqlite:{tmp_path / 'bus.sqlite'}"))
    assert isinstance(dropping, DroppingBus)
    subscription = dropping.subscribe("group", ["topic"])
    await subscription.start()
    await publish(dropping, "topic", range(3))
    await assert_quiet(subscription)
    await dropping.close()
    monkeypatch.setenv("TEST_BUS", "unknown")
    with pytest.raises(InvalidArgument, match="dropping or duplicating"):
        open_bus(Settings(bus="memory:"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A full disk that needs no rights: no file of this process may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
