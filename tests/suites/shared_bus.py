"""The suite of the bus port where other processes take part, and are killed. Subclass and supply make() and address()."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from servicekit.bus.port import Received, Subscription
from tests.suites.bus import BusContract, assert_quiet, collect, fresh, publish, values_by_key
from tests.suites.processes import child, finish
from tests.worlds.waiting import HANG


async def collect_values(subscription: Subscription, values: set[bytes]) -> Sequence[Received]:
    """Whatever arrives until each of these values has."""
    found: list[Received] = []
    async with asyncio.timeout(HANG):
        while not values <= {message.value for message in found}:
            found.extend(await subscription.batch())
    return found


class SharedBusContract(BusContract):
    """The contract of a bus whose address other processes can open."""

    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    async def test_publishers_in_four_processes_lose_nothing(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        herd = await child("publish", self.address(tmp_path), topic, "4", "500")
        async with self.bus(tmp_path) as bus:
            subscription = bus.subscribe(fresh("group"), [topic])
            found = await collect(subscription, 2000)
            await finish(herd)
            await assert_quiet(subscription)
        assert len(found) == 2000
        expected = {f"{p}-{k}": list(range(k, 500, 7)) for p in range(4) for k in range(7)}
        assert values_by_key(found) == expected

    async def test_a_killed_publisher_has_lost_nothing(self, tmp_path: Path) -> None:
        for pause in (0.0, 0.01, 0.1):
            topic = fresh("topic")
            doomed = await child("publish_until_killed", self.address(tmp_path), topic)
            assert doomed.stdout
            assert await asyncio.wait_for(doomed.stdout.readline(), HANG) == b"0\n"
            await asyncio.sleep(pause)
            doomed.kill()
            acknowledged = {0, *(int(value) for value in (await doomed.stdout.read()).splitlines())}
            await doomed.wait()
            async with self.bus(tmp_path) as bus:
                found = await collect(bus.tail([topic], from_start=True), len(acknowledged))
            values = [int(message.value) for message in found]
            assert values == list(range(len(values)))
            assert len(acknowledged) <= len(values) <= len(acknowledged) + 1

    async def test_wakes_for_a_message_of_another_process(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus:
            tail = bus.tail([topic])
            await tail.start()
            waiting = asyncio.create_task(collect(tail, 1))
            await finish(await child("publish", self.address(tmp_path), topic, "1", "1"))
            assert len(await waiting) == 1

    async def test_takes_over_from_a_member_killed_with_messages_in_hand(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        values = {b"%d" % value for value in range(100)}
        async with self.bus(tmp_path) as bus:
            doomed = await child("hold", self.address(tmp_path), topic, group)
            assert doomed.stdout
            async with asyncio.timeout(HANG):
                assert await doomed.stdout.readline() == b"started\n"
                mine = bus.subscribe(group, [topic])
                await mine.start()
                await publish(bus, topic, range(100), keys=100)
                assert (await doomed.stdout.readline()).startswith(b"holds ")
            doomed.kill()
            await doomed.wait()
            await collect_values(mine, values)

    async def test_what_nobody_committed_comes_back_to_a_member_with_its_partition(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other_bus:
            await publish(bus, topic, range(100), keys=100)
            one, other = bus.subscribe(group, [topic]), other_bus.subscribe(group, [topic])
            await collect(one, 100)
            again: set[bytes] = set()

            async def read_on() -> None:
                while True:
                    again.update(message.value for message in await one.batch())

            reader = asyncio.create_task(read_on())
            async with asyncio.timeout(HANG):
                held = {message.value for message in await other.batch()}
                await other.close()
                while not held <= again:
                    await asyncio.sleep(0.01)
            reader.cancel()
