"""What a server takes on at most, over real loopback connections: messages, calls, watches."""

import asyncio
import math
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream.channel import MAX_MESSAGE_BYTES, open_channel
from millstream.credentials import Credentials
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_pb2 import DatasetSpec, SplitSpec
from millstream.dataset.v1.dataset_service_pb2 import ImportHeader
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import InvalidArgument, Overloaded
from servicekit.limits import REQUEST_BYTES
from servicekit.rpc.auth import Tokens
from servicekit.rpc.interceptor import OPEN_STREAMS, ServerInterceptor
from servicekit.rpc.server import open_server
from tests.integration.test_runtime_serve import free_address
from tests.worlds.rpc import NAME, TOKENS, Service, counted, serving
from tests.worlds.waiting import HANG, until

FEW_FILES = 256
KINDS = ("unary_unary", "stream_unary", "unary_stream", "stream_stream")


class Counting:
    """One method of each kind, named for it, and how many bytes of requests were parsed."""

    def __init__(self, tokens: Path) -> None:
        self.parsed: list[int] = []
        self.interceptor = ServerInterceptor(Tokens(str(tokens), {}))

    def parse(self, data: bytes) -> bytes:
        self.parsed.append(len(data))
        return data

    def holds_nothing(self) -> bool:
        return not self.interceptor.watches and not self.interceptor.calls.inside

    def handlers(self) -> grpc.GenericRpcHandler:
        async def unary(request: Any, _context: Any) -> bytes:
            return b"".join([part async for part in request]) if hasattr(request, "__aiter__") else request

        async def stream(request: Any, context: Any) -> AsyncIterator[bytes]:
            yield await unary(request, context)

        methods = {}
        for kind in KINDS:
            make = getattr(grpc, f"{kind}_rpc_method_handler")
            name = f"Watch{kind}" if kind.endswith("stream") else kind
            methods[name] = make(stream if kind.endswith("stream") else unary, request_deserializer=self.parse)
        return grpc.method_handlers_generic_handler("counting.Service", methods)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = open_server(self.interceptor, ["counting.Service"])
        server.add_generic_rpc_handlers((self.handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(0)


def call(channel: grpc.Channel, kind: str, token: str) -> None:
    """Through grpc's client for threads: of a refused stream its asyncio client sometimes loses the status (#36066)."""
    name = f"/counting.Service/{'Watch' if kind.endswith('stream') else ''}{kind}"
    sent = iter([b"one", b"two"]) if kind.startswith("stream") else b"onetwo"
    got = getattr(channel, kind)(name)(sent, metadata=[("authorization", f"Bearer {token}")])
    assert (b"".join(got) if kind.endswith("stream") else got) == b"onetwo"


async def test_without_a_token_nothing_is_parsed_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    counting = Counting(tmp_path / "tokens")
    async with counting.serving() as address:
        channel = grpc.insecure_channel(address)
        for token in ("", "wrong", "secret-r"):  # a reader: the methods need the operator
            for kind in KINDS:
                with pytest.raises(grpc.RpcError) as refused:
                    await asyncio.to_thread(call, channel, kind, token)
                expected = grpc.StatusCode.PERMISSION_DENIED if token == "secret-r" else grpc.StatusCode.UNAUTHENTICATED
                assert refused.value.code() == expected
        assert counting.parsed == []
        assert counting.holds_nothing()
        for kind in KINDS:
            await asyncio.to_thread(call, channel, kind, "secret-o")
        assert sum(counting.parsed) == len(KINDS) * len("onetwo")
        await until(counting.holds_nothing)
        channel.close()


def most_memory(pid: int) -> int:
    """The most bytes that the process has held in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))


@pytest.fixture
def process(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The small service in its own process, with tokens: its address and pid."""
    (tmp_path / "tokens").write_text(TOKENS)
    address = free_address()
    settings = {"LISTEN": address, "TOKENS_FILE": str(tmp_path / "tokens"), "RECIPES": str(tmp_path / "never")}
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    environment = clean | {f"MILLSTREAM_{name}": value for name, value in settings.items()}

    command = f"ulimit -Sn {FEW_FILES}; exec {sys.executable} -m tests.worlds.rpc_server"
    with subprocess.Popen(["bash", "-c", command], env=environment) as started:
        yield address, started.pid
        started.kill()


async def test_a_compressed_message_costs_no_memory_without_a_token_and_little_above_the_limit(
    process: tuple[str, int],
) -> None:
    address, pid = process
    get = f"/{NAME}/GetDataset"
    token = [("authorization", "Bearer secret-r")]
    options = [("grpc.max_send_message_length", -1)]
    async with aio.insecure_channel(address, options=options) as channel:
        method: Any = channel.unary_unary(get)
        await method(b"", metadata=token, wait_for_ready=True, timeout=HANG)
        before = most_memory(pid)
        allowed = bytes(MAX_MESSAGE_BYTES - 100)  # about 16 kB as gzip
        for _ in range(5):
            calls = [method(allowed, compression=grpc.Compression.Gzip) for _ in range(4)]
            for one in calls:
                with pytest.raises(aio.AioRpcError) as refused:
                    await one
                assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert most_memory(pid) - before < len(allowed), "it holds no message of a call that it refuses"
        with pytest.raises(aio.AioRpcError, match="larger than max"):
            await method(bytes(20 * MAX_MESSAGE_BYTES), compression=grpc.Compression.Gzip, metadata=token)
        assert most_memory(pid) - before < 5 * MAX_MESSAGE_BYTES, "unpacking ends at the limit"


async def test_a_service_may_open_more_files_than_it_was_started_with(process: tuple[str, int]) -> None:
    address, pid = process
    async with open_channel(address, Credentials("secret-r")) as channel:
        await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(), wait_for_ready=True, timeout=HANG)
    assert resource.prlimit(pid, resource.RLIMIT_NOFILE)[0] > FEW_FILES


async def test_calls_above_the_bound_are_refused_and_health_still_answers() -> None:
    service = Service()
    service.hang = True
    async with serving(service, calls=2) as address, AsyncExitStack() as stack:
        stub = DatasetServiceStub(await stack.enter_async_context(open_channel(address)))
        plain = await stack.enter_async_context(aio.insecure_channel(address))
        health: Any = health_pb2_grpc.HealthStub(plain)
        before = counted("started", "unary", "GetDataset")
        hanging = asyncio.ensure_future(stub.GetDataset(pb.GetDatasetRequest()))
        # It sends no message, and has its place all the same.
        silent: Any = plain.stream_unary(f"/{NAME}/GetDataset")()
        await until(lambda: counted("started", "unary", "GetDataset") == before + 2)
        with pytest.raises(Overloaded, match="retry") as refused:
            await stub.GetDataset(pb.GetDatasetRequest())
        assert refused.value.retry_after > 0
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        hanging.cancel()
        silent.cancel()
        service.hang = False
        async with asyncio.timeout(HANG):
            while True:
                try:
                    await stub.GetDataset(pb.GetDatasetRequest())
                    break
                except Overloaded:
                    continue


async def test_a_call_without_a_message_ends_by_itself() -> None:
    async with serving(Service(), request_seconds=0.05) as address, aio.insecure_channel(address) as channel:
        for kind in ("stream_unary", "stream_stream"):
            name = "GetDataset" if kind == "stream_unary" else "WatchImport"
            waiting = getattr(channel, kind)(f"/{NAME}/{name}")()
            assert await waiting.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert "call again" in await waiting.details()
            empty = getattr(channel, kind)(f"/{NAME}/{name}")()
            await empty.done_writing()
            assert await empty.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_bytes_that_are_no_message_are_the_callers_mistake() -> None:
    async with serving(Service()) as address, open_channel(address) as channel:
        with pytest.raises(InvalidArgument, match="GetDataset"):
            method: Any = channel.unary_unary(f"/{NAME}/GetDataset")
            await method(b"\xff\xff\xff")


async def test_a_value_without_meaning_is_refused_before_the_service_sees_it() -> None:
    service = Service()
    spec = DatasetSpec(split=SplitSpec(test_share=math.inf))
    request = pb.ImportDatasetRequest(header=ImportHeader(dataset="words", spec=spec))
    async with serving(service) as address, open_channel(address) as channel:
        with pytest.raises(InvalidArgument) as raised:
            await DatasetServiceStub(channel).ImportDataset(iter([request]))
    assert raised.value.field == "header.spec.split.test_share" and not service.uploads


async def test_what_is_small_by_nature_takes_small_messages_only(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    counting = Counting(tmp_path / "tokens")
    async with counting.serving() as address, open_channel(address, Credentials("secret-o")) as channel:
        method: Any = channel.unary_unary("/counting.Service/unary_unary")
        assert len(await method(bytes(REQUEST_BYTES))) == REQUEST_BYTES
        with pytest.raises(InvalidArgument, match="larger than max"):
            await method(bytes(REQUEST_BYTES + 1))


async def test_watches_of_long_names_and_too_many_watches_are_refused() -> None:
    async with serving(Service()) as address, aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        long = [stub.Watch(health_pb2.HealthCheckRequest(service=f"{n}-" + "x" * 4_000_000)) for n in range(30)]
        for watch in long:
            assert await watch.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert "larger than max" in await watch.details()
        held = [stub.Watch(health_pb2.HealthCheckRequest(service=f"unknown-{n}")) for n in range(OPEN_STREAMS)]
        for watch in held:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        more = stub.Watch(health_pb2.HealthCheckRequest())
        assert await more.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
        held[0].cancel()
        async with asyncio.timeout(HANG):
            while await stub.Watch(health_pb2.HealthCheckRequest()).read() is aio.EOF:
                pass
