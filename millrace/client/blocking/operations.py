# Derived from asynchronous/operations.py by `python millrace/client/derive.py`: do not edit.
"""What an operator looks at."""

from collections.abc import Iterator, Sequence

from millrace.client.blocking.connection import Connection, pages
from millrace.client.parts import (
    PAGE,
)
from millrace.errors import InvalidArgument
from millrace.operations.v1 import operations_service_pb2 as operations
from millrace.operations.v1.operations_service_pb2_grpc import OperationsServiceStub


class Operations(Connection):
    """Calls the operations side of every service."""

    def events(self, topics: Sequence[str] = ()) -> Iterator[operations.TailEventsResponse]:
        """Events from now on, of every topic unless told."""
        stub = OperationsServiceStub(self._channels["registry"])
        yield from stub.TailEvents(operations.TailEventsRequest(topics=topics))

    def dead_letters(self, service: str) -> Iterator[operations.DeadLetter]:
        """Messages that one service (dataprep, trainer, …) could not parse, oldest first."""
        if service not in self._channels:
            raise InvalidArgument(f"{service!r} is no service; there are: {', '.join(self._channels)}", field="service")
        stub = OperationsServiceStub(self._channels[service])
        request = operations.ListDeadLettersRequest(page_size=PAGE)
        for page in pages(stub.ListDeadLetters, request):
            yield from page.dead_letters
