"""The attackers, each in a process of its own: `python -m bench.neighbours.attacks NAME JSON`. No answer stops them."""

import asyncio
import base64
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream.channel import MAX_MESSAGE_BYTES
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_pb2 import FORMAT_JSON_LINES
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.inference.v1 import inference_service_pb2 as inference
from millstream.inference.v1.inference_service_pb2_grpc import InferenceServiceStub
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import GateRule, ModelSpec
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub

AT_ONCE = 4
IDLE = 1300
WATCHES, WATCHED_NAME = 300, 4 << 20
ENDLESS = 1000
IMPORTS, IMPORT_ROWS = 6, 100_000
RULES = 800_000
OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
METHODS: Mapping[str, str] = {
    "inference": "/millstream.inference.v1.InferenceService/Classify",
    "registry": "/millstream.registry.v1.RegistryService/ListModels",
    "trainer": "/millstream.training.v1.TrainingService/ListTrainingRuns",
    "evaluator": "/millstream.evaluation.v1.EvaluationService/ListEvaluationReports",
    "dataprep": "/millstream.dataset.v1.DatasetService/ListDatasets",
}


@dataclass(frozen=True)
class Target:
    """A platform, and how long to attack it."""

    addresses: Mapping[str, str]
    token: str
    model: str
    dataset: str
    seconds: float

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)


async def _again(target: Target, call: Callable[[], Awaitable[object]], at_once: int = AT_ONCE) -> None:
    """Call again and again, some at once, whatever the answer."""
    end = time.monotonic() + target.seconds

    async def caller() -> None:
        while time.monotonic() < end:
            with suppress(grpc.RpcError):
                await call()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(caller() for _ in range(at_once)))


def _classify(text: str) -> Callable[[Target], Awaitable[None]]:
    async def attack(target: Target) -> None:
        async with aio.insecure_channel(target.addresses["inference"], options=OPTIONS) as channel:
            stub: Any = InferenceServiceStub(channel)
            request = inference.ClassifyRequest(model=target.model, texts=[text])
            await _again(target, lambda: stub.Classify(request, timeout=30, metadata=target.metadata))

    return attack


async def messages_without_a_token(target: Target) -> None:
    """A few kilobytes of gzip that unpack to as much as a message may have, on every service."""

    async def one(service: str) -> None:
        async with aio.insecure_channel(target.addresses[service], options=OPTIONS) as channel:
            call = channel.unary_unary(
                METHODS[service], request_serializer=lambda data: data, response_deserializer=lambda data: data
            )
            bomb = b"\x0a\x00" * (MAX_MESSAGE_BYTES // 2 - 64)
            await _again(target, lambda: call(bomb, timeout=30, compression=grpc.Compression.Gzip), 8)

    await asyncio.gather(*(one(service) for service in METHODS))


async def rules(target: Target) -> None:
    """Specs with hundreds of thousands of rules, and a reason of megabytes."""
    async with aio.insecure_channel(target.addresses["registry"], options=OPTIONS) as channel:
        stub: Any = RegistryServiceStub(channel)
        spec = ModelSpec(model="wide", recipe="toy_words", dataset="wide")
        spec.gate.extend([GateRule(metric="accuracy", at_least=0.1)] * RULES)
        apply = registry.ApplyModelRequest(spec=spec)
        roll_back = registry.RollbackAliasRequest(model=target.model, reason="r" * (9 << 20))
        for request, method in ((apply, stub.ApplyModel), (roll_back, stub.RollbackAlias)):
            await _again(target, lambda m=method, r=request: m(r, timeout=30, metadata=target.metadata), 2)  # type: ignore[misc]


async def deep_pages(target: Target) -> None:
    """Row by row through the largest dataset, and pages whose place is made up."""
    async with aio.insecure_channel(target.addresses["dataprep"], options=OPTIONS) as channel:
        stub: Any = DatasetServiceStub(channel)
        tokens = [""] * AT_ONCE

        async def walk(number: int) -> None:
            request = dataset.ListRowsRequest(dataset="large", split="train", page_size=1, page_token=tokens[number])
            answer = await stub.ListRows(request, timeout=30, metadata=target.metadata)
            tokens[number] = answer.next_page_token

        async def made_up() -> None:
            token = base64.urlsafe_b64encode(b"0/9000000").decode()
            request = dataset.ListRowsRequest(dataset="large", split="train", page_size=1, page_token=token)
            await stub.ListRows(request, timeout=30, metadata=target.metadata)

        walks = (_again(target, lambda n=n: walk(n), 1) for n in range(AT_ONCE))  # type: ignore[misc]
        await asyncio.gather(*walks, _again(target, made_up))


async def six_imports(target: Target) -> None:
    """Large files into six datasets at once, each import waited for."""

    async def one(number: int) -> None:
        async with aio.insecure_channel(target.addresses["dataprep"], options=OPTIONS) as channel:
            stub: Any = DatasetServiceStub(channel)
            name, request_id = f"flood-{number}", f"flood-{time.monotonic_ns()}-{number}"
            messages = _upload(name, request_id, _rows(number))
            with suppress(grpc.RpcError):
                await stub.ImportDataset(messages, timeout=120, metadata=target.metadata)
                watch = dataset.WatchImportRequest(dataset=name, request_id=request_id)
                async for _ in stub.WatchImport(watch, timeout=target.seconds * 4, metadata=target.metadata):
                    pass

    await asyncio.gather(*(one(number) for number in range(IMPORTS)))


def _rows(number: int) -> bytes:
    lines = (
        json.dumps({"text": f"row {i} of {number} {'word ' * 20}", "label": "ab"[i % 2]}) for i in range(IMPORT_ROWS)
    )
    return "\n".join(lines).encode()


async def _upload(name: str, request_id: str, data: bytes) -> AsyncIterator[dataset.ImportDatasetRequest]:
    header = dataset.ImportHeader(dataset=name, request_id=request_id, file_name="rows.jsonl", format=FORMAT_JSON_LINES)
    header.spec.SetInParent()
    yield dataset.ImportDatasetRequest(header=header)
    for start in range(0, len(data), 1 << 20):
        yield dataset.ImportDatasetRequest(chunk=data[start : start + (1 << 20)])


async def idle_connections(target: Target) -> None:
    """Connections that say nothing, and health watches with names of megabytes."""
    sockets = []
    for address in target.addresses.values():
        host, _, port = address.rpartition(":")
        for _ in range(IDLE):
            with suppress(OSError):
                sockets.append(socket.create_connection((host, int(port)), timeout=1))
    channels = [aio.insecure_channel(address, options=OPTIONS) for address in target.addresses.values()]
    try:
        watches = []
        for channel in channels:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for number in range(WATCHES // len(channels)):
                request = health_pb2.HealthCheckRequest(service=f"{number}" + "n" * (WATCHED_NAME - 100))
                watches.append(stub.Watch(request, timeout=target.seconds))
        await asyncio.gather(*(_read_all(watch) for watch in watches))
    finally:
        for channel in channels:
            await channel.close()
        for one in sockets:
            one.close()


async def _read_all(stream: Any) -> None:
    with suppress(grpc.RpcError):
        async for _ in stream:
            pass


async def endless_uploads(target: Target) -> None:
    """Uploads that begin and never end."""
    async with aio.insecure_channel(target.addresses["dataprep"], options=OPTIONS) as channel:
        stub: Any = DatasetServiceStub(channel)

        async def one(number: int) -> None:
            async def begin() -> AsyncIterator[dataset.ImportDatasetRequest]:
                header = dataset.ImportHeader(
                    dataset=f"endless-{number}", request_id=f"endless-{number}", file_name="e"
                )
                yield dataset.ImportDatasetRequest(header=header)
                yield dataset.ImportDatasetRequest(chunk=b"x" * 10_000)
                await asyncio.Event().wait()

            with suppress(grpc.RpcError):
                await stub.ImportDataset(begin(), timeout=target.seconds, metadata=target.metadata)

        await asyncio.gather(*(one(number) for number in range(ENDLESS)))


ATTACKS: Mapping[str, Callable[[Target], Awaitable[None]]] = {
    "combining marks": _classify("a" + "\u0301\u0316" * 200_000),
    "a long word": _classify("x" * 1_000_000),
    "base64": _classify(base64.b64encode(bytes(range(256)) * 12_000).decode()),
    "messages without a token": messages_without_a_token,
    "800,000 rules": rules,
    "deep pages": deep_pages,
    "six imports": six_imports,
    "idle connections": idle_connections,
    "endless uploads": endless_uploads,
}


def main() -> None:
    name, given = sys.argv[1], json.loads(sys.argv[2])

    async def attack() -> None:
        await ATTACKS[name](Target(**given))

    asyncio.run(attack())


if __name__ == "__main__":
    main()
