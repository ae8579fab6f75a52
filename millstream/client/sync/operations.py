# Derived from aio/operations.py by `python tools/derive_client.py`: do not edit.
"""What an operator looks at, and does."""

from collections.abc import Iterator, Sequence

from millstream.client.shared import PAGE
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.operations.v1 import operations_service_pb2 as operations
from millstream.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from millstream.operations.v1.service_status_pb2 import ServiceStatus
from millstream.operations.v1.stored_pb2 import DeadLetterResolution


class Operations(Connection):
    """Calls the operations side of every service."""

    def status(self, service: str, timeout: float = 5.0) -> ServiceStatus:
        """What one service knows about itself and the parts that it needs: ready or not, and what to mend."""
        stub = OperationsServiceStub(self._channel(service))
        return (stub.GetStatus(operations.GetStatusRequest(), timeout=timeout)).status

    def events(self, topics: Sequence[str] = ()) -> Iterator[operations.TailEventsResponse]:
        """Events from now on, of every topic unless told."""
        stub = OperationsServiceStub(self._channels["registry"])
        yield from stub.TailEvents(operations.TailEventsRequest(topics=topics))

    def dead_letters(self, service: str, show_resolved: bool = False) -> Iterator[operations.DeadLetter]:
        """Messages that a service could not parse and nobody has dealt with, oldest first; or all that are kept."""
        stub = OperationsServiceStub(self._channel(service))
        request = operations.ListDeadLettersRequest(page_size=PAGE, show_resolved=show_resolved)
        for page in pages(stub.ListDeadLetters, request):
            yield from page.dead_letters

    def dead_letter(self, service: str, letter_id: str) -> operations.DeadLetter:
        """One letter, with its original bytes and what was done with it."""
        stub = OperationsServiceStub(self._channel(service))
        return (stub.GetDeadLetter(operations.GetDeadLetterRequest(id=letter_id))).dead_letter

    def replay_dead_letter(self, service: str, letter_id: str, note: str = "") -> DeadLetterResolution:
        """Publish the original message again, where it came from. Asked again, nothing more happens."""
        stub = OperationsServiceStub(self._channel(service))
        request = operations.ReplayDeadLetterRequest(id=letter_id, note=note)
        return (stub.ReplayDeadLetter(request)).resolution

    def drop_dead_letter(self, service: str, letter_id: str, reason: str) -> DeadLetterResolution:
        """Say for good that a letter needs nothing more, and why."""
        stub = OperationsServiceStub(self._channel(service))
        request = operations.DropDeadLetterRequest(id=letter_id, reason=reason)
        return (stub.DropDeadLetter(request)).resolution
