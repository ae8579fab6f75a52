"""The bus's suite on a real broker; below it, what only Kafka can show (see also test_kafka_lost.py)."""

import asyncio
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from deploy.servers.certificates import Authority, can_make_certificates
from deploy.servers.kafka import Kafka
from millstream.errors import InvalidArgument, Unavailable
from servicekit.bus.kafka.bus import KafkaBus
from servicekit.bus.port import Message
from servicekit.runtime.backends import open_bus
from servicekit.runtime.settings import Settings
from tests.suites.bus import collect, fresh, publish
from tests.suites.processes import child, finish
from tests.suites.shared_bus import SharedBusContract, collect_values
from tests.worlds.servers import Broker, running, settings_of
from tests.worlds.waiting import HANG

# kafka-python leaves the sockets of tries that failed to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def bus_with(settings: Mapping[str, str]) -> KafkaBus:
    bus = open_bus(settings_of(settings))
    assert isinstance(bus, KafkaBus)
    return bus


class TestKafkaBus(SharedBusContract):
    broker: ClassVar[Broker]

    @pytest.fixture(autouse=True)
    def _broker(self, kafka: Broker) -> None:
        type(self).broker = kafka

    def make(self, tmp_path: Path) -> KafkaBus:
        return bus_with(self.broker.settings())

    def address(self, tmp_path: Path) -> str:
        return f"kafka:{self.broker.address}"

    async def test_ten_processes_make_a_topic_at_the_same_moment(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        await finish(await child("publish", self.address(tmp_path), topic, "10", "1"))
        async with self.bus(tmp_path) as bus:
            assert len(await collect(bus.tail([topic], from_start=True), 10)) == 10

    async def test_platforms_with_different_prefixes_share_a_broker_and_nothing_else(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        ours, theirs = (bus_with({**self.broker.settings(), "kafka_prefix": fresh("p")}) for _ in range(2))
        members = [bus.subscribe("group", [topic]) for bus in (ours, theirs)]
        for bus, value in ((ours, 1), (theirs, 2)):
            await publish(bus, topic, [value])
        found = [await collect(member, 1) for member in members]
        assert [[(m.topic, m.value) for m in messages] for messages in found] == [[(topic, b"1")], [(topic, b"2")]]
        for bus in (ours, theirs):
            await bus.close()

    async def test_a_slow_subscriber_stays_in_the_group(self, tmp_path: Path) -> None:
        topic = fresh("topic")
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other:
            member = bus.subscribe("group-" + topic, [topic])
            await publish(bus, topic, range(20))
            await collect(member, 20)
            await asyncio.sleep(8)  # longer than a session: its reader's thread keeps it in the group
            await member.commit()
            await member.close()
            again = other.subscribe("group-" + topic, [topic])
            await publish(bus, topic, [20])
            assert [message.value for message in await collect(again, 1)] == [b"20"]

    async def test_a_commit_after_losing_a_partition_loses_nothing(self, tmp_path: Path) -> None:
        topic, group = fresh("topic"), fresh("group")
        async with self.bus(tmp_path) as bus, self.bus(tmp_path) as other:
            await publish(bus, topic, range(100), keys=100)
            slow = bus.subscribe(group, [topic])
            await collect(slow, 100)
            newer = other.subscribe(group, [topic])
            await newer.start()
            taken = {message.value for message in await newer.batch()}
            await slow.commit()
            await slow.close()
            await newer.close()
            third = bus.subscribe(group, [topic])
            await collect_values(third, taken)

    async def test_a_closed_bus_is_unavailable(self, tmp_path: Path) -> None:
        bus = self.make(tmp_path)
        await bus.publish(Message(fresh("topic"), "k", b"v"))
        await bus.close()
        await bus.close()
        with pytest.raises(Unavailable, match="closed"):
            await bus.publish(Message("topic", "k", b"v"))


async def publish_with_retry(bus: KafkaBus, topic: str, value: bytes) -> None:
    async with asyncio.timeout(HANG):
        while True:
            with suppress(Unavailable):
                await bus.publish(Message(topic, "key", value))
                return
            await asyncio.sleep(0.2)


async def test_a_broker_that_sends_its_clients_elsewhere_is_told_its_setting(own_kafka: Callable[..., Kafka]) -> None:
    with socket.socket() as nobody:  # bound, so that no other process listens there; it does not listen itself
        nobody.bind(("127.0.0.1", 0))
        given = f"127.0.0.1:{nobody.getsockname()[1]}"
        broker = own_kafka(settings={"advertised.listeners": f"PLAINTEXT://{given}"})
        bus = bus_with(broker.settings())
        with pytest.raises(Unavailable, match=f"sends clients to {given}, .* set its advertised.listeners"):
            await bus.publish(Message(fresh("topic"), "key", b"value"))
        await bus.close()


async def test_publishers_and_readers_resume_after_a_broker_restart(own_kafka: Callable[..., Kafka]) -> None:
    broker, topic = own_kafka(), fresh("topic")
    bus = bus_with(broker.settings())
    member, tail = bus.subscribe("group", [topic]), bus.tail([topic])
    await tail.start()
    await publish(bus, topic, range(10))
    await collect(member, 10)
    await member.commit()
    await asyncio.to_thread(broker.kill)
    with pytest.raises(Unavailable, match=f"{broker.address}.*MILLSTREAM_BUS"):
        await asyncio.wait_for(bus.publish(Message(topic, "key", b"lost?")), HANG)
    await asyncio.to_thread(broker.start)
    await publish_with_retry(bus, topic, b"10")
    await collect_values(member, {b"10"})
    await collect_values(tail, {b"%d" % number for number in range(11)})
    await bus.close()


async def test_a_bus_opened_before_the_broker_works_once_it_is_there(own_kafka: Callable[..., Kafka]) -> None:
    broker, topic = own_kafka(), fresh("topic")
    await asyncio.to_thread(broker.kill)
    bus = bus_with(broker.settings())
    for attempt in (bus.check(), bus.publish(Message(topic, "k", b"")), bus.subscribe("g", [topic]).start()):
        with pytest.raises(Unavailable, match=f"{broker.address}.*start the broker"):
            await asyncio.wait_for(attempt, HANG)
    await asyncio.to_thread(broker.start)
    await publish_with_retry(bus, topic, b"1")
    assert [message.value for message in await collect(bus.subscribe("g", [topic]), 1)] == [b"1"]
    await bus.close()


async def test_readers_of_a_broker_that_lost_its_data_read_the_new_log(own_kafka: Callable[..., Kafka]) -> None:
    broker, topic = own_kafka(), fresh("topic")
    bus = bus_with(broker.settings())
    member, tail = bus.subscribe("group", [topic]), bus.tail([topic])
    await tail.start()
    await publish(bus, topic, range(50))
    await collect(member, 50)
    await member.commit()
    await collect(tail, 50)
    await asyncio.to_thread(broker.kill)
    broker.wipe()
    await asyncio.to_thread(broker.start)
    await publish_with_retry(bus, topic, b"new")
    await collect_values(member, {b"new"})
    await collect_values(tail, {b"new"})
    await bus.close()


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker with a listener for TLS and SASL."""
    if not can_make_certificates():
        pytest.skip("certificates are made with the openssl command, which is not installed")
    with running(Kafka(tmp_path_factory.mktemp("secure"), users={"millstream": "its-secret"})) as broker:
        yield broker


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
async def test_logs_in_over_tls(secure: Kafka, mechanism: str) -> None:
    topic = fresh("topic")
    bus = bus_with({**secure.settings("millstream"), "kafka_mechanism": mechanism})
    await publish(bus, topic, range(5))
    assert len(await collect(bus.subscribe(fresh("group"), [topic]), 5)) == 5
    await bus.check()
    await bus.close()


async def test_each_problem_with_credentials_is_one_clear_error(secure: Kafka, tmp_path: Path) -> None:
    right = secure.settings("millstream")
    (tmp_path / "wrong").write_text("wrong")
    other = Authority.make(tmp_path / "other", "stranger").ca_file
    plain = {"bus": f"kafka:{secure.secure_address}"}
    cases = {
        r"refuses the login of 'millstream'.*MILLSTREAM_KAFKA_PASSWORD_FILE": {
            **right,
            "kafka_password_file": str(tmp_path / "wrong"),
        },
        r"refuses the login of 'nobody'.*MILLSTREAM_KAFKA_USER": {**right, "kafka_user": "nobody"},
        r"MILLSTREAM_KAFKA_PASSWORD_FILE=.*absent": {**right, "kafka_password_file": str(tmp_path / "absent")},
        r"not trusted.*MILLSTREAM_KAFKA_CA_FILE": {**right, "kafka_ca_file": str(other)},
        r"speaks TLS: set MILLSTREAM_KAFKA_TLS": plain,
        r"TLS handshake.*MILLSTREAM_KAFKA_TLS": {**secure.settings(), "kafka_ca_file": str(secure.ca_file)},
    }
    for expected, settings in cases.items():
        bus = bus_with(settings)
        for attempt in (bus.check(), bus.publish(Message("t", "k", b"")), bus.subscribe("g", ["t"]).batch()):
            with pytest.raises(Unavailable, match=expected):
                await asyncio.wait_for(attempt, HANG)
        await bus.close()


async def test_a_missing_topic_that_may_not_be_made_is_named(kafka: Broker) -> None:
    topic = fresh("topic")
    bus = bus_with({**kafka.settings(), "kafka_create_topics": "false", "kafka_partitions": "3"})
    for attempt in (bus.publish(Message(topic, "k", b"")), bus.tail([topic]).start()):
        with pytest.raises(Unavailable, match=f"{topic} is missing.*create it with 3 partitions"):
            await asyncio.wait_for(attempt, HANG)
    await bus.close()


def test_a_malformed_address_is_refused() -> None:
    for place in ("localhost", "host:", ":9092", "host:port", "host:9092,"):
        with pytest.raises(InvalidArgument, match="kafka:HOST:PORT"):
            open_bus(Settings(bus=f"kafka:{place}"))
