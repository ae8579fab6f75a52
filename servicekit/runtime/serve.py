"""Runs a service from start to stop: server, health, metrics, work, outbox. The same for all five."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

from google.protobuf.descriptor import ServiceDescriptor
from grpc import aio
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from millstream.errors import MillstreamError
from millstream.operations.v1.operations_service_pb2 import DESCRIPTOR
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus
from servicekit.facts.outbox import Outbox
from servicekit.processes import raise_file_limit
from servicekit.rpc.auth import Tokens, roles_of
from servicekit.rpc.health import Health
from servicekit.rpc.interceptor import ServerInterceptor, WithoutContext
from servicekit.rpc.server import ConnectionLimits, open_server
from servicekit.runtime.metrics_port import serve_metrics
from servicekit.runtime.operations import Operations, add_operations
from servicekit.runtime.probes import TIMEOUT_SECONDS, DependencyProbe
from servicekit.runtime.settings import Settings
from servicekit.runtime.status import Status
from servicekit.runtime.tls import server_credentials
from servicekit.work.deadletters import DeadLetters
from servicekit.work.queue import Work
from servicekit.work.storage import Storage

log = logging.getLogger(__name__)
HEALTH_NOTICE_SECONDS = 0.05
"""The time that watchers of this server's health have to receive NOT_SERVING before the server stops."""
FLUSH_SECONDS = 2.0

OPERATIONS = DESCRIPTOR.services_by_name["OperationsService"]


@runtime_checkable
class Ready(Protocol):
    """A service with a readiness of its own, instead of the store's."""

    async def ready(self) -> None:
        """Raise, with what is missing, while the service cannot do its main job."""
        ...


@dataclass
class GrpcService:
    """One gRPC service: its descriptor, the generated function that adds it to a server, and its implementation.

    An implementation that is Ready decides the readiness of the whole process.
    """

    descriptor: ServiceDescriptor
    add: Callable[[Any, Any], None]
    service: object

    @property
    def name(self) -> str:
        """The full name: `package.Service`."""
        return str(self.descriptor.full_name)


# size: half of it is its signature, and each line is one step from start to stop
async def serve(
    settings: Settings,
    service: str,
    services: Sequence[GrpcService],
    *,
    blobs: Blobs,
    bus: Bus,
    work: Work | None = None,
    outbox: Outbox | None = None,
    storage: Storage | None = None,
    background: Sequence[Coroutine[Any, Any, None]] = (),
    health: Health | None = None,
) -> None:
    """Run until SIGTERM or SIGINT, or until a background task ends, whose error is raised; then drain (README.md).

    Ends the process where it cannot start. Without a Ready service the process is ready while the store answers.
    """
    raise_file_limit()
    health = health or Health()
    store = DependencyProbe("blobs", blobs.check, health.set, pause=1.0, pause_in_incident=0.2)
    events = DependencyProbe("bus", bus.check, partial(_bus_changed, health, work), pause=5.0, pause_in_incident=0.5)
    consumer, damage = (work.consumer, work.damage) if work else (None, None)
    status = Status(service, health, store, events, consumer, outbox, damage, storage)
    try:
        roles = roles_of([*(one.descriptor for one in services), OPERATIONS])
        interceptor = ServerInterceptor(Tokens(settings.tokens_file, roles), settings.concurrent_calls)
        server = open_server(interceptor, [one.name for one in services], _limits(settings))
        _mount(server, health, services, Operations(bus, DeadLetters(blobs, bus, service), status))
        port = _listen(server, settings)
        serve_metrics(settings.metrics_listen)
    except SystemExit:
        for coroutine in background:
            coroutine.close()
        raise
    await _start(server, health)
    if settings.ignored:
        log.info("variables that the cluster injected are ignored", extra={"variables": settings.ignored})
    log.info("serving", extra={"port": port})

    ready = next((one.service.ready for one in services if isinstance(one.service, Ready)), store.require)
    running = [*background, store.run(), events.run(), _watch_readiness(health, ready)]
    running += [part.run() for part in (work, outbox, storage) if part]
    tasks = [asyncio.create_task(coroutine) for coroutine in running]
    ended = await _until_stopped(tasks)

    log.info("draining")
    await _drain(server, health, interceptor, settings.drain_seconds)
    await _stop_tasks(tasks, outbox)
    await bus.close()
    log.info("stopped")
    for task in ended:
        raise task.exception() or RuntimeError("a background task ended, which none should")


async def _bus_changed(health: Health, work: Work | None, name: str, answers: bool) -> None:
    await health.set(name, answers)
    if work:
        work.bus_answers(answers)


async def _start(server: aio.Server, health: Health) -> None:
    """Listen: alive, and not ready before the first probes."""
    await health.set("liveness", True)
    for name in ("blobs", "bus"):
        await health.set(name, False)
    await health.set_ready("starting")
    await server.start()


async def _drain(server: aio.Server, health: Health, interceptor: ServerInterceptor, seconds: float) -> None:
    """Report NOT_SERVING, end endless streams, and give the other calls in flight this many seconds."""
    await health.stop()
    await asyncio.sleep(HEALTH_NOTICE_SECONDS)
    interceptor.end_watches()
    await server.stop(seconds)


async def _stop_tasks(tasks: Sequence[asyncio.Task[None]], outbox: Outbox | None) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    if outbox:
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await outbox.flush()


async def _until_stopped(tasks: Sequence[asyncio.Task[None]]) -> list[asyncio.Task[Any]]:
    """Wait for a signal or the end of a task; returns the tasks that ended, which none should."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    return [task for task in tasks if task in done]


def _mount(server: aio.Server, health: Health, services: Sequence[GrpcService], operations: Operations) -> None:
    for one in services:
        one.add(WithoutContext(one.service), server)
    health.names = tuple(one.name for one in services)
    add_operations(operations, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.servicer, server)
    names = (
        *health.names,
        "grpc.health.v1.Health",
        OPERATIONS.full_name,
        reflection.SERVICE_NAME,
    )
    reflection.enable_server_reflection(names, server)


def _limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        idle_seconds=settings.connection_idle_seconds,
        age_seconds=settings.connection_age_seconds,
        streams=settings.connection_streams,
        connections=settings.connections,
    )


def _listen(server: aio.Server, settings: Settings) -> int:
    try:
        if settings.tls_cert_file:
            return server.add_secure_port(settings.listen, server_credentials(settings))
        return server.add_insecure_port(settings.listen)
    except RuntimeError:
        text = f"cannot listen on {settings.listen}: it is taken, or no address of this machine. Set MILLSTREAM_LISTEN."
        raise SystemExit(text) from None


async def _watch_readiness(health: Health, ready: Callable[[], Awaitable[None]]) -> None:
    while True:
        reason = await _reason(ready)
        if reason and health.ready:
            log.warning("not ready", extra={"error": reason})
        await health.set_ready(reason)
        await asyncio.sleep(0.2 if reason else 1.0)


async def _reason(ready: Callable[[], Awaitable[None]]) -> str:
    """Why the service is not ready; "" if it is."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            await ready()
    except MillstreamError as error:
        return str(error)
    except TimeoutError:
        return f"no answer for {TIMEOUT_SECONDS:g} s"
    return ""
