"""OperationsService, mounted in every service: what it could not parse, and what is said on the bus."""

from collections.abc import AsyncIterator
from contextlib import suppress

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio

from millrace.errors import InvalidArgument
from millrace.operations.v1.operations_service_pb2 import (
    DeadLetter,
    ListDeadLettersRequest,
    ListDeadLettersResponse,
    TailEventsRequest,
    TailEventsResponse,
)
from millrace.operations.v1.operations_service_pb2_grpc import add_OperationsServiceServicer_to_server
from servicekit.bus import Bus
from servicekit.events import Malformed, NewerEvent, from_message
from servicekit.pages import page
from servicekit.rpc import Bound
from servicekit.topics import BY_NAME, dead_letters_of


class Operations:
    def __init__(self, bus: Bus, group: str) -> None:
        self.bus, self.group = bus, group

    async def ListDeadLetters(self, request: ListDeadLettersRequest) -> ListDeadLettersResponse:
        found = []
        letters = self.bus.tail([dead_letters_of(self.group)], from_start=True)
        await letters.start()
        try:
            while await letters.lag():
                for message in await letters.batch():
                    headers = dict(message.headers)
                    reason = headers.pop("dlq_reason", b"").decode()
                    letter = DeadLetter(
                        topic=message.topic, offset=message.offset, value=message.value, headers=headers
                    )
                    letter.key, letter.reason = message.key.encode(), reason
                    found.append(letter)
        finally:
            await letters.close()
        shown, token = page(found, request.page_size, request.page_token, lambda letter: str(letter.offset))
        return ListDeadLettersResponse(dead_letters=shown, next_page_token=token)

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
