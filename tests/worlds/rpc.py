"""A dataset service of few words, to be called over loopback, and what the tests of calls ask it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import REGISTRY

from millstream.channel import MAX_MESSAGE_BYTES
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_pb2 import Dataset
from millstream.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import MillstreamError
from millstream.trace import trace_id
from servicekit.rpc.auth import Tokens, roles_of
from servicekit.rpc.caller import actor, deadline
from servicekit.rpc.interceptor import ServerInterceptor, WithoutContext
from servicekit.rpc.server import ConnectionLimits, open_server

CONTRACT = pb.DESCRIPTOR.services_by_name["DatasetService"]
NAME = CONTRACT.full_name
TOKENS = "secret-r reading reader\nsecret-w writing writer  # may write\n\nsecret-o ops operator\n"
USUAL = ConnectionLimits()
METHODS = {"unary": "GetDataset", "server_stream": "WatchImport", "client_stream": "ImportDataset"}


class Service:
    """Raises `error` in every kind of method; else answers, and records caller, deadline and trace."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.seen: list[tuple[str, float | None, str]] = []
        self.closed = asyncio.Event()
        self.entered = asyncio.Event()
        self.uploads: list[list[bytes]] = []
        self.hang = False

    def _look(self) -> None:
        left = deadline()
        self.seen.append((actor(), left and left - time.monotonic(), trace_id()))

    async def GetDataset(self, request: pb.GetDatasetRequest) -> pb.GetDatasetResponse:
        self._look()
        if request.dataset == "large":
            return pb.GetDatasetResponse(dataset=Dataset(name="x" * (MAX_MESSAGE_BYTES + 1)))
        if self.hang:
            self.entered.set()
            await asyncio.sleep(30)
        if self.error:
            raise self.error
        return pb.GetDatasetResponse(dataset=Dataset(name=request.dataset))

    async def WatchImport(self, request: pb.WatchImportRequest) -> AsyncIterator[pb.WatchImportResponse]:
        try:
            for number in range(3):
                await asyncio.sleep(0.001)
                self._look()
                yield pb.WatchImportResponse(dataset_import=Import(rows_read=number))
            if self.error:
                raise self.error
            self.entered.set()
            while self.hang:
                await asyncio.sleep(0.005)
                yield pb.WatchImportResponse()
        finally:
            self.closed.set()

    async def ImportDataset(self, requests: AsyncIterator[pb.ImportDatasetRequest]) -> pb.ImportDatasetResponse:
        chunks = []
        async for request in requests:
            self._look()
            chunks.append(request.chunk)
            self.entered.set()
        if self.error:
            raise self.error
        self.uploads.append(chunks)
        return pb.ImportDatasetResponse(dataset_import=Import(request_id=str(len(chunks))))

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)
        return self.GetDataset


@asynccontextmanager
async def serving(
    service: Service, tokens: str = "", limits: ConnectionLimits = USUAL, **bounds: Any
) -> AsyncIterator[str]:
    """Its address; `bounds` are those of the interceptor."""
    interceptor = ServerInterceptor(Tokens(tokens, roles_of([CONTRACT])), **bounds)
    server = open_server(interceptor, [NAME], limits)
    add_DatasetServiceServicer_to_server(WithoutContext(service), server)  # type: ignore[arg-type]
    watched = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(watched, server)
    reflection.enable_server_reflection([NAME, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def handled(kind: str, method: str, code: str, service: str = NAME) -> float:
    labels = {"grpc_type": kind, "grpc_service": service, "grpc_method": method, "grpc_code": code}
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0


def counted(name: str, kind: str, method: str) -> float:
    labels = {"grpc_type": kind, "grpc_service": NAME, "grpc_method": method}
    return REGISTRY.get_sample_value(f"grpc_server_{name}_total", labels) or 0.0


async def chunks(count: int) -> AsyncIterator[pb.ImportDatasetRequest]:
    for number in range(count):
        yield pb.ImportDatasetRequest(chunk=b"%d" % number)


def sync_chunks(count: int) -> Iterator[pb.ImportDatasetRequest]:
    for number in range(count):
        yield pb.ImportDatasetRequest(chunk=b"%d" % number)


async def all_of(stream: Any) -> list[Any]:
    return [each async for each in stream]


async def caught(stub: Any, kind: str) -> MillstreamError:
    with pytest.raises(MillstreamError) as info:
        if kind == "unary":
            await stub.GetDataset(pb.GetDatasetRequest(dataset="a"))
        elif kind == "server_stream":
            await all_of(stub.WatchImport(pb.WatchImportRequest()))
        else:
            await stub.ImportDataset(chunks(3))
    return info.value


def caught_sync(stub: Any, kind: str) -> MillstreamError:
    with pytest.raises(MillstreamError) as info:
        if kind == "unary":
            stub.GetDataset(pb.GetDatasetRequest(dataset="a"))
        elif kind == "server_stream":
            list(stub.WatchImport(pb.WatchImportRequest()))
        else:
            stub.ImportDataset(sync_chunks(3))
    return info.value
