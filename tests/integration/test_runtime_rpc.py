"""Calls over a real loopback server: errors, tokens, deadlines, traces and metrics arrive on both sides."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from millstream.channel import MAX_MESSAGE_BYTES, open_channel, open_sync_channel
from millstream.credentials import Credentials
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    MillstreamError,
    NotFound,
    Overloaded,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)
from millstream.trace import continue_trace, traceparent
from tests.worlds.rpc import (
    METHODS,
    NAME,
    TOKENS,
    Service,
    all_of,
    caught,
    caught_sync,
    chunks,
    counted,
    handled,
    serving,
)
from tests.worlds.waiting import HANG, until

ERRORS: list[MillstreamError] = [
    InvalidArgument("bad, भाषा → 100% “wrong”", field="spec.split", reason="SPLIT_WRONG", dataset="words"),
    Unauthenticated("no token"),
    PermissionDenied("not you", needed="writer"),
    NotFound("not there"),
    FailedPrecondition("first this"),
    AlreadyExists("it stands"),
    Conflict("lost"),
    Overloaded("too much", retry_after=2.5),
    Unavailable("away"),
    DeadlineExceeded("late"),
    Internal("bug"),
]
RULES = [
    InvalidArgument("తెలుగు " * 2000, field="text", sample="x" * 5000),  # far above what trailing metadata may hold
    InvalidArgument("a" * 100_000, field="f" * 5000),
]


@pytest.mark.parametrize("kind", METHODS)
async def test_every_error_arrives_as_itself_on_both_channels(kind: str) -> None:
    service = Service()
    async with serving(service) as address, open_channel(address) as channel:
        with open_sync_channel(address) as sync_channel:
            stub, sync_stub = DatasetServiceStub(channel), DatasetServiceStub(sync_channel)
            for error in ERRORS:
                service.error = error
                before = handled(kind, METHODS[kind], error.code.name)
                for found in (await caught(stub, kind), await asyncio.to_thread(caught_sync, sync_stub, kind)):
                    assert type(found) is type(error)
                    assert (found.text, found.reason, found.field) == (error.text, error.reason, error.field)
                    assert dict(found.metadata) == dict(error.metadata)
                    assert found.retry_after == error.retry_after
                assert handled(kind, METHODS[kind], error.code.name) == before + 2


@pytest.mark.parametrize("error", RULES)
async def test_a_long_text_is_cut_and_does_not_turn_into_another_error(error: MillstreamError) -> None:
    service = Service()
    service.error = error
    async with serving(service) as address, open_channel(address) as channel:
        found = await caught(DatasetServiceStub(channel), "unary")
        assert type(found) is InvalidArgument
        assert found.text.endswith("…") and error.text.startswith(found.text[:-1])


@pytest.mark.parametrize("kind", METHODS)
async def test_a_plain_exception_is_internal_and_leaks_nothing(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    service.error = ValueError("the password is swordfish")
    async with serving(service) as address, open_channel(address) as channel:
        found = await caught(DatasetServiceStub(channel), kind)
    assert type(found) is Internal
    assert "swordfish" not in found.text
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["rpc failed"]
    assert "swordfish" in caplog.text


async def test_a_message_that_is_too_large_is_no_reason_to_try_again() -> None:
    async with serving(Service()) as address, open_channel(address) as channel:
        stub = DatasetServiceStub(channel)
        with pytest.raises(InvalidArgument, match=r"the answer has 16,.* larger than max: 16,777,216; ask for less"):
            await stub.GetDataset(pb.GetDatasetRequest(dataset="large"))
        with pytest.raises(InvalidArgument, match="larger than max"):
            await stub.GetDataset(pb.GetDatasetRequest(dataset="x" * (MAX_MESSAGE_BYTES + 1)))


async def test_a_method_that_the_peer_does_not_know_yet_is_tried_again() -> None:
    async with serving(Service()) as address, open_channel(address) as channel:
        method = channel.unary_unary(f"/{NAME}/Newer", pb.GetDatasetRequest.SerializeToString, lambda data: data)
        with pytest.raises(Unavailable):
            await method(pb.GetDatasetRequest())


async def test_good_calls_are_counted_with_their_messages() -> None:
    kinds = {kind: (handled(kind, method, "OK"), method) for kind, method in METHODS.items()}
    received, sent = (
        counted("msg_received", "client_stream", "ImportDataset"),
        counted("msg_sent", "server_stream", "WatchImport"),
    )
    async with serving(Service()) as address, open_channel(address) as channel:
        stub = DatasetServiceStub(channel)
        assert (await stub.GetDataset(pb.GetDatasetRequest(dataset="a"))).dataset.name == "a"
        assert [each.dataset_import.rows_read for each in await all_of(stub.WatchImport(pb.WatchImportRequest()))] == [
            0,
            1,
            2,
        ]
        assert (await stub.ImportDataset(chunks(4))).dataset_import.request_id == "4"
    for kind, (before, method) in kinds.items():
        assert handled(kind, method, "OK") == before + 1
    assert counted("msg_received", "client_stream", "ImportDataset") == received + 4
    assert counted("msg_sent", "server_stream", "WatchImport") == sent + 3


async def test_late_and_cancelled_calls_are_counted_as_such() -> None:
    service = Service()
    service.hang = True
    late, cancelled = handled("unary", "GetDataset", "DEADLINE_EXCEEDED"), handled("unary", "GetDataset", "CANCELLED")
    dropped = handled("server_stream", "WatchImport", "CANCELLED")
    async with serving(service) as address, open_channel(address) as channel:
        stub = DatasetServiceStub(channel)
        timeout = 0.1
        while not service.entered.is_set():  # on a busy machine it may pass on the way to the server
            with pytest.raises(DeadlineExceeded):
                await stub.GetDataset(pb.GetDatasetRequest(), timeout=timeout)
            timeout *= 2
        await until(lambda: handled("unary", "GetDataset", "DEADLINE_EXCEEDED") > late)

        service.entered.clear()
        call = asyncio.ensure_future(stub.GetDataset(pb.GetDatasetRequest()))
        await service.entered.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until(lambda: handled("unary", "GetDataset", "CANCELLED") == cancelled + 1)

        watch = stub.WatchImport(pb.WatchImportRequest())
        async for _ in watch:
            watch.cancel()
            break
        await asyncio.wait_for(service.closed.wait(), HANG)
        await until(lambda: handled("server_stream", "WatchImport", "CANCELLED") == dropped + 1)


async def test_a_broken_off_upload_is_never_taken_for_a_whole_one() -> None:
    service = Service()

    async def stops() -> AsyncIterator[pb.ImportDatasetRequest]:
        yield pb.ImportDatasetRequest(chunk=b"half")
        await asyncio.sleep(30)

    async def fails() -> AsyncIterator[pb.ImportDatasetRequest]:
        yield pb.ImportDatasetRequest(chunk=b"half")
        raise ValueError("unreadable")

    def sync_fails() -> Iterator[pb.ImportDatasetRequest]:
        yield pb.ImportDatasetRequest(chunk=b"half")
        raise ValueError("unreadable")

    async with serving(service) as address, open_channel(address) as channel:
        for _ in range(20):
            service.entered.clear()
            call = asyncio.ensure_future(DatasetServiceStub(channel).ImportDataset(stops()))
            await service.entered.wait()
            call.cancel()
            await asyncio.wait([call])
        with pytest.raises(asyncio.CancelledError):
            await DatasetServiceStub(channel).ImportDataset(fails())
        with open_sync_channel(address) as sync_channel, pytest.raises(MillstreamError):
            await asyncio.to_thread(DatasetServiceStub(sync_channel).ImportDataset, sync_fails())
        async with open_channel(address) as closing:
            service.entered.clear()
            call = asyncio.ensure_future(DatasetServiceStub(closing).ImportDataset(stops()))
            await service.entered.wait()
        await asyncio.wait([call])
        await DatasetServiceStub(channel).ImportDataset(chunks(1))
    assert service.uploads == [[b"0"]]


async def test_who_and_deadline_hold_in_every_kind_of_method(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    service = Service()

    async def calls(address: str, token: str, name: str) -> None:
        async with open_channel(address, Credentials(token)) as channel:
            stub = DatasetServiceStub(channel)
            await stub.GetDataset(pb.GetDatasetRequest(dataset=name))
            await all_of(stub.WatchImport(pb.WatchImportRequest(), timeout=50))
            await stub.ImportDataset(chunks(2))

    async with serving(service, str(tmp_path / "tokens")) as address:
        await asyncio.gather(calls(address, "secret-w", "writing"), calls(address, "secret-o", "ops"))
    seen = sorted((name, left is None or round(left, -1)) for name, left, _ in service.seen)
    mine = [True, True, 30.0, 50.0, 50.0, 50.0]
    assert seen == sorted((name, left) for name in ("writing", "ops") for left in mine)


async def test_roles_hold_for_every_kind_and_refusals_are_counted(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    service = Service()
    denied = handled("client_stream", "ImportDataset", "PERMISSION_DENIED")
    async with serving(service, str(tmp_path / "tokens")) as address:
        async with open_channel(address, Credentials("secret-r")) as channel:
            stub = DatasetServiceStub(channel)
            await stub.GetDataset(pb.GetDatasetRequest())
            await all_of(stub.WatchImport(pb.WatchImportRequest()))
            with pytest.raises(PermissionDenied, match="needs the role writer; reading is reader"):
                await stub.ImportDataset(chunks(2))
        for wrong in ("", "nobody"):
            async with open_channel(address, Credentials(wrong)) as channel:
                for kind in METHODS:
                    assert type(await caught(DatasetServiceStub(channel), kind)) is Unauthenticated
    assert handled("client_stream", "ImportDataset", "PERMISSION_DENIED") == denied + 1
    assert service.uploads == []


@pytest.mark.parametrize("with_tokens", [False, True])
async def test_health_and_reflection_are_open(tmp_path: Path, with_tokens: bool) -> None:
    (tmp_path / "tokens").write_text(TOKENS)
    not_found = handled("unary", "Check", "NOT_FOUND", "grpc.health.v1.Health")
    tokens = str(tmp_path / "tokens") if with_tokens else ""
    async with serving(Service(), tokens) as address, aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest
        assert (await stub.Check(check())).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(aio.AioRpcError) as info:
            await stub.Check(check(service="nobody"))
        assert info.value.code() == grpc.StatusCode.NOT_FOUND
        watch = stub.Watch(check(service="nobody"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        reflector: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # type: ignore[arg-type]
        async for found in reflector.ServerReflectionInfo(iter([ask])):
            assert NAME in {service.name for service in found.list_services_response.service}
    assert handled("unary", "Check", "NOT_FOUND", "grpc.health.v1.Health") == not_found + 1


async def test_a_trace_goes_on_through_the_call() -> None:
    service = Service()
    continue_trace("")
    mine = traceparent()
    async with serving(service) as address, open_channel(address) as channel:
        await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest())
        assert service.seen[-1][2] == mine[3:35]


async def test_a_list_of_addresses_is_used_in_turn() -> None:
    first, second = Service(), Service()
    async with serving(first) as one, serving(second) as two, open_channel(f"{one},{two}") as channel:
        stub = DatasetServiceStub(channel)
        async with asyncio.timeout(HANG):
            while not (first.seen and second.seen):
                await stub.GetDataset(pb.GetDatasetRequest())
    with pytest.raises(InvalidArgument, match="resolves to all replicas"):
        open_channel("registry-0:50054,registry-1:50054")
