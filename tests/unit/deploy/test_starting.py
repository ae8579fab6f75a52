"""What a start waits for and reports, with replicas on real gRPC servers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from deploy.local import starting
from deploy.local.health import statuses
from deploy.local.starting import Starting
from millstream.operations.v1.operations_service_pb2 import GetStatusRequest, GetStatusResponse
from millstream.operations.v1.operations_service_pb2_grpc import (
    OperationsServiceServicer,
    add_OperationsServiceServicer_to_server,
)
from millstream.operations.v1.service_status_pb2 import Dependency, ServiceStatus
from tests.worlds.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Replica(OperationsServiceServicer):
    """A replica with a status and a readiness that a test sets."""

    def __init__(self, service: str) -> None:
        self.status = ServiceStatus(service=service, bus=Dependency(ok=True))
        self.health = health_aio.HealthServicer()
        self.address = ""
        self.polls = 0

    async def GetStatus(self, request: GetStatusRequest, context: object) -> GetStatusResponse:
        self.polls += 1
        return GetStatusResponse(status=self.status)

    async def set_ready(self, ready: bool, reason: str = "") -> None:
        self.status.ready, self.status.not_ready_reason = ready, reason
        await self.health.set("readiness", SERVING if ready else NOT_SERVING)


@asynccontextmanager
async def running(replica: Replica) -> AsyncIterator[Replica]:
    server = aio.server()
    add_OperationsServiceServicer_to_server(replica, server)
    health_pb2_grpc.add_HealthServicer_to_server(replica.health, server)
    replica.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield replica
    finally:
        await server.stop(0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "REPORT_SECONDS", 0.0)


async def test_a_reason_is_reported_once_and_the_start_ends_when_all_serve() -> None:
    async with running(Replica("trainer")) as trainer, running(Replica("registry")) as registry:
        reported: list[str] = []
        start = Starting({trainer.address: "trainer", registry.address: "registry"}, {}, reported.append)
        for replica in (trainer, registry):
            await replica.set_ready(False, "the store cannot be reached: start it")
        serving = asyncio.create_task(start.until_serving())
        await until(lambda: "the store" in start.missing() and "does not answer" not in start.missing())
        assert start.missing() == "registry, trainer: the store cannot be reached: start it"
        for replica in (trainer, registry):
            await replica.set_ready(True)
        await serving
        assert start.missing() == ""
        (line,) = reported
        assert line.endswith(" waits: the store cannot be reached: start it")


async def test_a_replica_that_is_down_does_not_answer() -> None:
    start = Starting({"127.0.0.1:1": "trainer"}, {}, print)
    waiting = asyncio.create_task(start.until_serving())
    await until(start.missing)
    assert start.missing() == "trainer: does not answer"
    waiting.cancel()


async def test_a_bus_that_is_down_is_a_warning_until_it_is_back() -> None:
    async with running(Replica("trainer")) as trainer:
        trainer.status.bus.CopyFrom(Dependency(problem="the broker cannot be reached: start it"))
        reported: list[str] = []
        start = Starting({trainer.address: "trainer"}, {}, reported.append)
        watching = asyncio.create_task(start.watch_bus())
        await until(lambda: reported)
        trainer.status.bus.CopyFrom(Dependency(ok=True))
        await watching
    expected = "warning: trainer cannot use the bus, and serves without it: the broker cannot be reached: start it"
    assert reported == [expected]


async def test_statuses_are_polled() -> None:
    async with running(Replica("trainer")) as trainer:
        polled = statuses(trainer.address, {})
        assert [(await anext(polled)).service for _ in range(2)] == ["trainer", "trainer"]
        await polled.aclose()
        assert trainer.polls == 2
