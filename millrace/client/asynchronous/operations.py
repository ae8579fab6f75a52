"""What an operator looks at."""

from collections.abc import AsyncIterator, Sequence

from millrace.client.asynchronous.connection import Connection, pages
from millrace.client.parts import (
    PAGE,
)
from millrace.errors import InvalidArgument
from millrace.operations.v1 import operations_service_pb2 as operations
from millrace.operations.v1.operations_service_pb2_grpc import OperationsServiceStub


class Operations(Connection):
    """Calls the operations side of every service."""

    async def events(self, topics: Sequence[str] = ()) -> AsyncIterator[operations.TailEventsResponse]:
        """Events from now on, of every topic unless told."""
        stub = OperationsServiceStub(self._channels["registry"])
        async for event in stub.TailEvents(operations.TailEventsRequest(topics=topics)):
            yield event

    async def dead_letters(self, service: str) -> AsyncIterator[operations.DeadLetter]:
        """Messages that one service (dataprep, trainer, …) could not parse, oldest first."""
        if service not in self._channels:
            raise InvalidArgument(f"{service!r} is no service; there are: {', '.join(self._channels)}", field="service")
        stub = OperationsServiceStub(self._channels[service])
        request = operations.ListDeadLettersRequest(page_size=PAGE)
        async for page in pages(stub.ListDeadLetters, request):
            for found in page.dead_letters:
                yield found
