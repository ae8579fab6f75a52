"""OperationsService, mounted in every service: its status, its dead letters, and the events on the bus."""

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
from servicekit.build_info import build_info
from servicekit.bus.port import Bus
from servicekit.facts.events import Malformed, NewerEvent, from_message
from servicekit.limits import check_reason
from servicekit.rpc.caller import actor
from servicekit.rpc.interceptor import WithoutContext
from servicekit.runtime.status import Status
from servicekit.work.deadletters import DeadLetters


class Operations:
    """The calls for operators, as operations_service.proto documents them."""

    def __init__(self, bus: Bus, dead_letters: DeadLetters, status: Status) -> None:
        self.bus, self.dead_letters, self.status = bus, dead_letters, status

    async def GetStatus(self, request: GetStatusRequest) -> GetStatusResponse:
        """The replica's status; answers at once, whatever is unavailable."""
        return GetStatusResponse(status=self.status.message(await asyncio.to_thread(build_info)))

    async def ListDeadLetters(self, request: ListDeadLettersRequest) -> ListDeadLettersResponse:
        """A page of dead letters. Raises InvalidArgument, Unavailable."""
        found, token = await self.dead_letters.page(request.page_size, request.page_token, request.show_resolved)
        return ListDeadLettersResponse(dead_letters=found, next_page_token=token)

    async def GetDeadLetter(self, request: GetDeadLetterRequest) -> GetDeadLetterResponse:
        """One dead letter. Raises NotFound, Unavailable."""
        return GetDeadLetterResponse(dead_letter=await self.dead_letters.find(request.id))

    async def ReplayDeadLetter(self, request: ReplayDeadLetterRequest) -> ReplayDeadLetterResponse:
        """Publish the original message again. Raises InvalidArgument, NotFound, FailedPrecondition, Unavailable."""
        note = check_reason(request.note, "note")
        return ReplayDeadLetterResponse(resolution=await self.dead_letters.replay(request.id, actor(), note))

    async def DropDeadLetter(self, request: DropDeadLetterRequest) -> DropDeadLetterResponse:
        """Resolve without replay. Raises InvalidArgument, NotFound, FailedPrecondition, Unavailable."""
        if not request.reason:
            raise InvalidArgument("reason is empty: say why nothing is lost by dropping the letter", field="reason")
        reason = check_reason(request.reason)
        return DropDeadLetterResponse(resolution=await self.dead_letters.drop(request.id, actor(), reason))

    async def TailEvents(self, request: TailEventsRequest) -> AsyncIterator[TailEventsResponse]:
        """Events from now on, without those that this version cannot parse. Raises InvalidArgument, Unavailable."""
        if unknown := set(request.topics) - set(BY_NAME):
            text = f"no topic {', '.join(sorted(unknown))[:200]}: there are {', '.join(BY_NAME)}"
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
                    with suppress(ValueError):  # the time is optional in CloudEvents
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
    """Mount the service in a server."""
    add_OperationsServiceServicer_to_server(WithoutContext(operations), server)  # type: ignore[arg-type]
