"""The calls for operators on a running service: status, dead letters, events on the bus."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from millstream.channel import open_channel
from millstream.credentials import Credentials
from millstream.errors import FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated, Unavailable
from millstream.operations.v1.operations_service_pb2 import (
    DropDeadLetterRequest,
    GetDeadLetterRequest,
    GetStatusRequest,
    ListDeadLettersRequest,
    ReplayDeadLetterRequest,
    TailEventsRequest,
)
from millstream.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message
from servicekit.facts.events import to_message
from servicekit.runtime import probes
from tests.integration.test_runtime_serve import NOT_SERVING, SERVING, Server, running
from tests.worlds.rpc import TOKENS
from tests.worlds.waiting import HANG


async def test_without_a_bus_it_is_ready_and_says_what_is_wrong_with_it() -> None:
    class Down(MemoryBus):
        async def check(self) -> None:
            raise Unavailable("no broker at 127.0.0.1:9092: start it")

    async with running(bus=Down()) as server:
        await server.until_ready()
        async with open_channel(server.address) as channel:
            stub = OperationsServiceStub(channel)
            async with asyncio.timeout(HANG):
                while not (status := (await stub.GetStatus(GetStatusRequest())).status).bus.problem:
                    await asyncio.sleep(0.01)
        assert (status.service, status.ready, status.not_ready_reason) == ("dataprep", True, "")
        assert status.bus.problem == "no broker at 127.0.0.1:9092: start it" and not status.bus.ok
        assert status.blobs.ok and status.blobs.HasField("last_success_time")
        assert not status.HasField("consumer"), "it listens to nothing"
        assert await server.health("bus") == NOT_SERVING and await server.health("readiness") == SERVING


async def test_a_store_that_hangs_is_said_to_at_once_by_a_status_that_does_not_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging(MemoryBlobs):
        async def check(self) -> None:
            await asyncio.sleep(3600)

    monkeypatch.setattr(probes, "TIMEOUT_SECONDS", 0.05)
    async with running(blobs=Hanging()) as server, open_channel(server.address) as channel:
        stub = OperationsServiceStub(channel)
        await stub.GetStatus(GetStatusRequest(), wait_for_ready=True)
        async with asyncio.timeout(HANG):
            while not (status := (await stub.GetStatus(GetStatusRequest())).status).blobs.problem:
                await asyncio.sleep(0.01)
            while (
                status := (await stub.GetStatus(GetStatusRequest())).status
            ).not_ready_reason != status.blobs.problem:
                await asyncio.sleep(0.01)
        assert "no answer" in status.blobs.problem and not status.ready


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Server]:
    """A service that asks for tokens, with one dead letter."""
    (tmp_path / "tokens").write_text(TOKENS)
    async with running(tokens_file=str(tmp_path / "tokens")) as server:
        await server.until_ready()
        await server.bus.publish(Message("dataprep.dlq", "k", b"\xff", {"dlq_reason": b"broken", "ce_id": b"1"}))
        yield server


async def test_an_operator_lists_and_drops_a_dead_letter(guarded: Server) -> None:
    async with open_channel(guarded.address, Credentials("secret-o")) as channel:
        stub = OperationsServiceStub(channel)
        (letter,) = (await stub.ListDeadLetters(ListDeadLettersRequest())).dead_letters
        assert (letter.key, letter.value, letter.reason) == (b"k", b"\xff", "broken")
        assert dict(letter.headers) == {"ce_id": b"1"}

        assert (await stub.GetDeadLetter(GetDeadLetterRequest(id=letter.id))).dead_letter == letter
        with pytest.raises(FailedPrecondition, match="names no topic of this platform"):
            await stub.ReplayDeadLetter(ReplayDeadLetterRequest(id=letter.id))
        with pytest.raises(InvalidArgument, match="say why"):
            await stub.DropDeadLetter(DropDeadLetterRequest(id=letter.id))
        dropped = await stub.DropDeadLetter(DropDeadLetterRequest(id=letter.id, reason="a test"))
        assert (dropped.resolution.actor, dropped.resolution.note) == ("ops", "a test")
        assert not (await stub.ListDeadLetters(ListDeadLettersRequest())).dead_letters
        every = (await stub.ListDeadLetters(ListDeadLettersRequest(show_resolved=True))).dead_letters
        assert [shown.resolution for shown in every] == [dropped.resolution]


async def test_an_operator_tails_events(guarded: Server) -> None:
    async with open_channel(guarded.address, Credentials("secret-o")) as channel:
        stub = OperationsServiceStub(channel)
        with pytest.raises(InvalidArgument, match="no topic nonsense"):
            await anext(aiter(stub.TailEvents(TailEventsRequest(topics=["nonsense"]))))
        tail = stub.TailEvents(TailEventsRequest())

        async def publish() -> None:
            fact = pb_event()
            while True:
                message = to_message(fact, "words", "id-1", "dataprep")
                headers = {name: value for name, value in message.headers.items() if name != "ce_time"}
                await guarded.bus.publish(Message(message.topic, "words", message.value, headers))
                await guarded.bus.publish(Message("millstream.dataset.v1", "words", b"\xff", {}))
                await asyncio.sleep(0.02)

        publishing = asyncio.create_task(publish())
        async for event in tail:
            assert (event.topic, event.key, event.event_id) == ("millstream.dataset.v1", "words", "id-1")
            assert event.event_type == "millstream.dataset.v1.SnapshotCreated" and '"words"' in event.json
            break
        publishing.cancel()
        tail.cancel()


async def test_a_writer_sees_the_status_alone(guarded: Server) -> None:
    async with open_channel(guarded.address, Credentials("secret-w")) as channel:
        stub = OperationsServiceStub(channel)
        assert (await stub.GetStatus(GetStatusRequest())).status.ready, "a reader may see the status"
        with pytest.raises(PermissionDenied, match="needs the role operator"):
            await stub.ReplayDeadLetter(ReplayDeadLetterRequest(id="0" * 32))
    async with open_channel(guarded.address, Credentials("wrong")) as channel:
        with pytest.raises(Unauthenticated):
            await OperationsServiceStub(channel).ListDeadLetters(ListDeadLettersRequest())


def pb_event() -> Any:
    from millstream.dataset.v1.events_pb2 import SnapshotCreated

    return SnapshotCreated(dataset="words", number=1)
