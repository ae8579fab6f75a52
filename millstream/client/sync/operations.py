# Derived from aio/operations.py by `python tools/derive_client.py`: do not edit.
"""Status of the services, the tail of the bus, dead letters."""

from collections.abc import Iterator, Sequence

from millstream.client.shared import PAGE
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.operations.v1 import operations_service_pb2 as operations
from millstream.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from millstream.operations.v1.service_status_pb2 import ServiceStatus
from millstream.operations.v1.stored_pb2 import DeadLetterResolution


class Operations(Connection):
    """Calls the OperationsService that every service has. `service` is dataprep, trainer, evaluator, registry or inference.

    All but status() need a token with the role operator.
    """

    def status(self, service: str, timeout: float = 5.0) -> ServiceStatus:
        """What one service reports about itself and its dependencies. Answered from its last probes, within `timeout` s."""
        stub = OperationsServiceStub(self._channel(service))
        return (stub.GetStatus(operations.GetStatusRequest(), timeout=timeout)).status

    def events(self, topics: Sequence[str] = ()) -> Iterator[operations.TailEventsResponse]:
        """Events from now on, without end. `topics` empty: of every topic. Raises InvalidArgument for an unknown topic."""
        stub = OperationsServiceStub(self._channel("registry"))
        yield from stub.TailEvents(operations.TailEventsRequest(topics=topics))

    def dead_letters(self, service: str, show_resolved: bool = False) -> Iterator[operations.DeadLetter]:
        """Messages that a service could not parse, oldest first: those without a resolution, or with `show_resolved` all."""
        stub = OperationsServiceStub(self._channel(service))
        request = operations.ListDeadLettersRequest(page_size=PAGE, show_resolved=show_resolved)
        for page in pages(stub.ListDeadLetters, request):
            yield from page.dead_letters

    def dead_letter(self, service: str, letter_id: str) -> operations.DeadLetter:
        """A dead letter with its original bytes, and its resolution if it has one. Raises NotFound."""
        stub = OperationsServiceStub(self._channel(service))
        return (stub.GetDeadLetter(operations.GetDeadLetterRequest(id=letter_id))).dead_letter

    def replay_dead_letter(self, service: str, letter_id: str, note: str = "") -> DeadLetterResolution:
        """Publish the original message to its own topic again. Idempotent: a second call publishes nothing.

        Raises FailedPrecondition for a letter that was dropped or does not hold its original topic.
        """
        stub = OperationsServiceStub(self._channel(service))
        request = operations.ReplayDeadLetterRequest(id=letter_id, note=note)
        return (stub.ReplayDeadLetter(request)).resolution

    def drop_dead_letter(self, service: str, letter_id: str, reason: str) -> DeadLetterResolution:
        """Resolve a letter without publishing it, for good; `reason` is kept. Idempotent.

        Raises FailedPrecondition for a letter that was replayed, InvalidArgument for an empty reason.
        """
        stub = OperationsServiceStub(self._channel(service))
        request = operations.DropDeadLetterRequest(id=letter_id, reason=reason)
        return (stub.DropDeadLetter(request)).resolution
