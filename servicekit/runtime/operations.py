"""OperationsService, mounted in every service: how it is, what it could not parse, and what is said on the bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from millstream.defaults import BY_NAME
from millstream.errors import InvalidArgument
from millstream.operations.v1.operations_service_pb2 import (
    DropDeadLetterRequest,
    DropDeadLetterResponse,
    GetDeadLetterRequest,
    GetDeadLetterResponse,
    GetStatusRequest,
    GetStatusResponse,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    ReplayDeadLetterRequest,
    ReplayDeadLetterResponse,
    TailEventsRequest,
    TailEventsResponse,
)
from millstream.operations.v1.operations_service_pb2_grpc import add_OperationsServiceServicer_to_server
from servicekit.build_info import code
from servicekit.bus.port import Bus
from servicekit.facts.events import Malformed, NewerEvent, from_message
from servicekit.rpc.interceptor import Bound, actor
from servicekit.runtime.status import Status
from servicekit.work.deadletters import DeadLetters


class Operations:
    def __init__(self, bus: Bus, letters: DeadLetters, status: Status) -> None:
        self.bus, self.letters, self.status = bus, letters, status

    async def GetStatus(self, request: GetStatusRequest) -> GetStatusResponse:
        return GetStatusResponse(status=self.status.message(await asyncio.to_thread(code)))

    async def ListDeadLetters(self, request: ListDeadLettersRequest) -> ListDeadLettersResponse:
        found, token = await self.letters.page(request.page_size, request.page_token, request.show_resolved)
        return ListDeadLettersResponse(dead_letters=found, next_page_token=token)

    async def GetDeadLetter(self, request: GetDeadLetterRequest) -> GetDeadLetterResponse:
        return GetDeadLetterResponse(dead_letter=await self.letters.find(request.id))

    async def ReplayDeadLetter(self, request: ReplayDeadLetterRequest) -> ReplayDeadLetterResponse:
        return ReplayDeadLetterResponse(resolution=await self.letters.replay(request.id, actor(), request.note))

    async def DropDeadLetter(self, request: DropDeadLetterRequest) -> DropDeadLetterResponse:
        if not request.reason:
            raise InvalidArgument("say why nothing is lost by dropping it", field="reason")
        return DropDeadLetterResponse(resolution=await self.letters.drop(request.id, actor(), request.reason))

    async def TailEvents(self, request: TailEventsRequest) -> AsyncIterator[TailEventsResponse]:
        if unknown := set(request.topics) - set(BY_NAME):
            text = f"no topic {', '.join(sorted(unknown))}: there are {', '.join(BY_NAME)}"
            raise InvalidArgument(text, field="topics")
        tail = self.bus.tail(list(request.topics) or list(BY_NAME))
        await tail.start()
        try:
            while True:
                for message in await tail.batch():
                    try:
                        event = from_message(message)
                    except (Malformed, NewerEvent):
                        continue
                    time = Timestamp()
                    with suppress(ValueError):  # CloudEvents may leave the time out
                        time.FromJsonString(event.time)
                    yield TailEventsResponse(
                        topic=message.topic,
                        key=event.key,
                        event_id=event.event_id,
                        event_type=event.event_type,
                        time=time,
                        json=MessageToJson(event.fact, indent=None),
                    )
        finally:
            await tail.close()


def add_operations(operations: Operations, server: aio.Server) -> None:
    add_OperationsServiceServicer_to_server(Bound(operations), server)  # type: ignore[arg-type]
