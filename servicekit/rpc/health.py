"""The state behind grpc.health.v1, by name."""

from dataclasses import dataclass, field
from typing import Any

from grpc_health.v1 import health, health_pb2
from typing_extensions import override

from millstream.errors import Overloaded

LISTED = 1000
"""Most names that one List answers."""
_messages: Any = health_pb2
"""The stubs of types for this module know no List yet."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServicer(health.aio.HealthServicer):
    """The library's servicer, with the List that it lacks."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[str, None] = {}

    @override
    async def set(self, service: str, status: Any) -> None:
        self._names[service] = None
        await super().set(service, status)

    async def List(self, request: Any, context: Any) -> Any:
        """The state of every name. Raises Overloaded for more than LISTED, as grpc.health.v1 wants it."""
        if len(self._names) > LISTED:
            raise Overloaded(f"there are {len(self._names):,} names: call Check or Watch with one of them")
        asked = {name: health_pb2.HealthCheckRequest(service=name) for name in self._names}
        statuses = {name: await self.Check(one, context) for name, one in asked.items()}
        return _messages.HealthListResponse(statuses=statuses)


@dataclass
class Health:
    """What is reported by name: `liveness`, `blobs`, `bus`, and readiness as `readiness`, "" and each gRPC service's name.

    Liveness is true while the event loop runs. Readiness never depends on the bus, because no request does.
    """

    servicer: HealthServicer = field(default_factory=HealthServicer)
    names: tuple[str, ...] = ()
    ready: bool | None = None
    reason: str = ""
    """Why it is not ready; "" if it is."""

    async def set(self, name: str, serving: bool) -> None:
        """Report a name as SERVING or NOT_SERVING to callers and watchers."""
        await self.servicer.set(name, SERVING if serving else NOT_SERVING)

    async def stop(self) -> None:
        """Report every name as NOT_SERVING, whatever is set later."""
        await self.servicer.enter_graceful_shutdown()

    async def set_ready(self, reason: str = "") -> None:
        """Report readiness: ready with an empty reason, else not ready for that reason."""
        self.reason = reason
        if self.ready != (not reason):
            self.ready = not reason
            for name in ("", "readiness", *self.names):
                await self.set(name, self.ready)
