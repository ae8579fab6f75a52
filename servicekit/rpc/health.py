"""The state behind grpc.health.v1, by name."""

from dataclasses import dataclass, field
from typing import Any

from grpc_health.v1 import health, health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Health:
    """What is reported by name: `liveness`, `blobs`, `bus`, and readiness as `readiness`, "" and each gRPC service's name.

    Liveness is true while the event loop runs. Readiness never depends on the bus, because no request does.
    """

    servicer: Any = field(default_factory=health.aio.HealthServicer)
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
