"""Polls a service's readiness (grpc.health.v1) and its status (OperationsService)."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream.channel import open_channel
from millstream.credentials import Credentials
from millstream.errors import MillstreamError
from millstream.operations.v1.operations_service_pb2 import GetStatusRequest
from millstream.operations.v1.operations_service_pb2_grpc import OperationsServiceStub
from millstream.operations.v1.service_status_pb2 import ServiceStatus

PAUSE, STATUS_PAUSE = 0.02, 0.5
ANSWER_SECONDS = 5.0
SERVING = health_pb2.HealthCheckResponse.SERVING


async def serving(address: str, settings: Mapping[str, str]) -> None:
    """Return once the service at this address is SERVING; waits without a timeout. `settings` hold the credentials."""
    host, _, port = address.rpartition(":")
    while not await _listens(host, int(port)):
        await asyncio.sleep(PAUSE)
    async with _channel(address, settings) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                if (await stub.Check(health_pb2.HealthCheckRequest(service="readiness"))).status == SERVING:
                    return
            except MillstreamError:
                pass
            await asyncio.sleep(PAUSE)


async def statuses(address: str, settings: Mapping[str, str]) -> AsyncGenerator[ServiceStatus, None]:
    """The status of the service at this address, polled every half second without end; errors are skipped."""
    async with _channel(address, settings) as channel:
        stub = OperationsServiceStub(channel)
        while True:
            status = None
            with suppress(MillstreamError):
                status = (await stub.GetStatus(GetStatusRequest(), timeout=ANSWER_SECONDS)).status
            if status:
                yield status
            await asyncio.sleep(STATUS_PAUSE)


def _channel(address: str, settings: Mapping[str, str]) -> aio.Channel:
    return open_channel(address, Credentials.from_env(settings))


async def _listens(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
