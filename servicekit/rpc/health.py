"""grpc.health.v1 by name: what a service says about itself to whoever asks or watches."""

from dataclasses import dataclass, field
from typing import Any

from grpc_health.v1 import health, health_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass
class Health:
    """ "" and each service follow `readiness`; `liveness` is answered by the turning loop; `blobs` and `bus` are evidence.

    Readiness never depends on the bus, because every request is answered without it.
    """

    servicer: Any = field(default_factory=health.aio.HealthServicer)
    names: tuple[str, ...] = ()
    ready: bool | None = None
    reason: str = ""
    """Why it is not ready."""

    async def set(self, name: str, serving: bool) -> None:
        await self.servicer.set(name, SERVING if serving else NOT_SERVING)

    async def stop(self) -> None:
        """Not serving any more, whatever is set from now on."""
        await self.servicer.enter_graceful_shutdown()

    async def set_ready(self, reason: str = "") -> None:
        """Ready, or for this reason not."""
        self.reason = reason
        if self.ready != (not reason):
            self.ready = not reason
            for name in ("", "readiness", *self.names):
                await self.set(name, self.ready)
