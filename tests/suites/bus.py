"""The suite of the bus port. An adapter passes it by subclassing and supplying make().

For buses that processes share, tests/suites/shared_bus.py has more.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from millstream.errors import InvalidArgument, Unavailable
from servicekit.bus.port import MAX_VALUE, Bus, Message, Received, Subscription
from tests.worlds.waiting import HANG

QUIET = 0.3


async def collect(subscription: Subscription, count: int) -> Sequence[Received]:
    """At least `count` messages; a hang fails the test."""
    found: list[Received] = []
    async with asyncio.timeout(HANG):
        while len(found) < count:
            found.extend(await subscription.batch())
    return found


async def assert_quiet(subscription: Subscription) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(subscription.batch(), QUIET)


async def wait_for_lag(subscription: Subscription, lag: int) -> None:
    """Wait until a member has read how far the log goes."""
    async with asyncio.timeout(HANG):
        while await subscription.lag() != lag:
            await asyncio.sleep(0.01)


async def publish(bus: Bus, topic: str, values: Sequence[int], keys: int = 7) -> None:
    for value in values:
        await bus.publish(Message(topic, f"key-{value % keys}", b"%d" % value))


def values_by_key(messages: Sequence[Received]) -> Mapping[str, Sequence[int]]:
    found: dict[str, list[int]] = {}
    for message in messages:
        found.setdefault(message.key, []).append(int(message.value))
    return found


def fresh(kind: str) -> str:
    """A topic or group that no other test uses, since a broker outlives a test."""
    return f"{kind}-{uuid4().hex}"


class BusContract:
    """The contract of every bus."""

    def make(self, tmp_path: Path) -> Bus:
        """A bus, or one more handle of it: two calls with the same path see the same messages."""
        raise NotImplementedError

    @asynccontextmanager
    async def bus(self, tmp_path: Path) -> AsyncIterator[Bus]:
        bus = self.make(tmp_path)
        try:
            yield bus
        finally:
            await bus.close()

    async def test_carries_keys_values_and_headers_as_they_are(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        sent = [
            Message(topic, "plain", b"value", {"ce_id": b"1", "traceparent": b"\x00\xff", "empty": b""}),
            Message(topic, "తెలుగు/ключ 🎁", b"\x00\x01", {"заголовок": "é".encode()}),
            Message(topic, "", b"", {}),
            Message(topic, "a\x00b\nc", b"line\nline"),
            Message(topic, "big", b"\xab" * MAX_VALUE),
        ]
        async with self.bus(tmp_path) as bus:
            for message in sent:
                await bus.publish(message)
            subscription = bus.subscribe(fresh("group"), [topic])
            await subscription.start()
            found = await collect(subscription, len(sent))
        received = {m.key: Message(m.topic, m.key, m.value, dict(m.headers)) for m in found}
        assert received == {message.key: message for message in sent}

    async def test_refuses_what_some_bus_could_not_carry(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus:
            for topic in ("", ".", "..", "with space", "a/b", "é", "t\n", "x" * 250):
                with pytest.raises(InvalidArgument):
                    await bus.publish(Message(topic, "k", b"v"))
                with pytest.raises(InvalidArgument):
                    bus.subscribe("group", [topic])
                with pytest.raises(InvalidArgument):
                    bus.subscribe(topic, ["topic"])
                with pytest.raises(InvalidArgument):
                    bus.tail([topic])
            with pytest.raises(InvalidArgument):
                await bus.publish(Message("topic", "k", b"v" * (MAX_VALUE + 1)))
            with pytest.raises(InvalidArgument):
                await bus.publish(Message("topic", "lone \ud800", b"v"))

    async def test_keeps_the_order_of_each_key_and_offsets_grow(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(600))
            subscription = bus.subscribe(fresh("group"), [topic])
            found = await collect(subscription, 600)
            await assert_quiet(subscription)
        assert len(found) == 600
        assert values_by_key(found) == {f"key-{k}": list(range(k, 600, 7)) for k in range(7)}
        for partition in {message.partition for message in found}:
            offsets = [message.offset for message in found if message.partition == partition]
            assert offsets == sorted(set(offsets))

    async def test_delivers_again_what_was_not_committed(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(10))
            first = bus.subscribe(group, [topic])
            await collect(first, 10)
            await first.commit()
            await publish(bus, topic, range(10, 20))
            assert sorted(int(m.value) for m in await collect(first, 10)) == list(range(10, 20))
            await first.close()
            second = bus.subscribe(group, [topic])
            assert sorted(int(m.value) for m in await collect(second, 10)) == list(range(10, 20))

    async def test_goes_on_after_what_was_committed(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(10))
            first = bus.subscribe(group, [topic])
            await collect(first, 10)
            await first.commit()
            await first.close()
        async with self.bus(tmp_path) as bus:
            second = bus.subscribe(group, [topic])
            await second.start()
            await assert_quiet(second)
            await publish(bus, topic, [10])
            assert [int(m.value) for m in await collect(second, 1)] == [10]

    async def test_groups_are_independent(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            one, other = (bus.subscribe(fresh("group"), [topic]) for _ in range(2))
            await one.start()
            await publish(bus, topic, range(10))
            assert len(await collect(one, 10)) == 10
            await one.commit()
            assert len(await collect(other, 10)) == 10, "a new group begins with the oldest message"

    async def test_one_subscription_reads_several_topics(self, tmp_path: Path) -> None:
        topics = [fresh("topic") for _ in range(3)]
        async with self.bus(tmp_path) as bus:
            subscription = bus.subscribe(fresh("group"), topics[:2])
            await subscription.start()
            for topic in topics:
                await publish(bus, topic, range(5))
            found = await collect(subscription, 10)
            await assert_quiet(subscription)
        assert {(m.topic, int(m.value)) for m in found} == {(t, v) for t in topics[:2] for v in range(5)}

    async def test_two_members_share_and_one_takes_over_when_the_other_leaves(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other_bus:
            one, other = bus.subscribe(group, [topic]), other_bus.subscribe(group, [topic])
            await one.start()
            await other.start()
            await publish(bus, topic, range(100))
            found: list[Received] = []

            async def read(subscription: Subscription) -> None:
                while True:
                    found.extend(await subscription.batch())
                    await subscription.commit()

            readers = [asyncio.create_task(read(subscription)) for subscription in (one, other)]
            async with asyncio.timeout(HANG):
                while {int(m.value) for m in found} != set(range(100)):
                    await asyncio.sleep(0.01)
            readers[0].cancel()
            await asyncio.gather(readers[0], return_exceptions=True)
            await one.close()
            await publish(bus, topic, range(100, 200))
            async with asyncio.timeout(HANG):
                while {int(m.value) for m in found} != set(range(200)):
                    await asyncio.sleep(0.01)
            readers[1].cancel()

    async def test_a_member_that_left_cannot_move_the_group_back(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(10))
            one = bus.subscribe(group, [topic])
            await collect(one, 10)
            await one.close()
            other = bus.subscribe(group, [topic])
            await publish(bus, topic, range(10, 20))
            await collect(other, 20)
            await other.commit()
            await one.commit()
            await other.close()
            third = bus.subscribe(group, [topic])
            await third.start()
            await assert_quiet(third)

    async def test_a_tail_sees_what_comes_after_its_start(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(10))
            tail = bus.tail([topic])
            await tail.start()
            await publish(bus, topic, range(10, 20))
            await wait_for_lag(tail, 10)
            assert sorted(int(m.value) for m in await collect(tail, 10)) == list(range(10, 20))
            assert await tail.lag() == 0
            await tail.commit()
            everything = bus.tail([topic], from_start=True)
            assert sorted(int(m.value) for m in await collect(everything, 20)) == list(range(20))

    async def test_two_tails_both_see_everything(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            tails = [bus.tail([topic]) for _ in range(2)]
            for tail in tails:
                await tail.start()
            await publish(bus, topic, range(10))
            for tail in tails:
                assert len(await collect(tail, 10)) == 10

    async def test_lag_counts_what_was_not_returned(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus:
            await publish(bus, topic, range(10))
            subscription = bus.subscribe(group, [topic])
            await subscription.start()
            assert await subscription.lag() == 10
            await collect(subscription, 10)
            assert await subscription.lag() == 0
            await publish(bus, topic, range(3))
            await wait_for_lag(subscription, 3)

    async def test_a_cancelled_wait_loses_nothing(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            subscription = bus.subscribe(fresh("group"), [topic])
            await subscription.start()
            found: set[int] = set()
            publishing = asyncio.create_task(publish(bus, topic, range(200)))
            async with asyncio.timeout(HANG):
                while len(found) < 200:
                    try:
                        found |= {int(m.value) for m in await asyncio.wait_for(subscription.batch(), 0.001)}
                    except TimeoutError:
                        continue
            await publishing
        assert found == set(range(200))

    async def test_closing_ends_the_wait(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            for subscription in (bus.subscribe(fresh("group"), [topic]), bus.tail([topic])):
                waiting = asyncio.create_task(subscription.batch())
                await asyncio.sleep(0.05)
                await subscription.close()
                await subscription.close()
                for batch in (waiting, subscription.batch()):
                    with pytest.raises(Unavailable):
                        await asyncio.wait_for(batch, HANG)

    async def test_check_passes(self, tmp_path: Path) -> None:
        async with self.bus(tmp_path) as bus:
            await bus.check()
