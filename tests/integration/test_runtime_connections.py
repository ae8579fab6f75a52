"""How many connections a server takes, and when they end, over loopback."""

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest
from grpc import aio

from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from servicekit.rpc.server import ConnectionLimits
from tests.integration.test_runtime_serve import running
from tests.worlds.rpc import Service, all_of, serving
from tests.worlds.waiting import HANG, until


def own_channel(address: str) -> aio.Channel:
    """A channel with a connection of its own."""
    return aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


async def until_closed(channel: aio.Channel) -> None:
    """Wait until its connection is gone."""
    async with asyncio.timeout(HANG):
        while (state := channel.get_state()) == grpc.ChannelConnectivity.READY:
            await channel.wait_for_state_change(state)


async def test_an_idle_connection_is_closed_and_opened_again_by_the_next_call() -> None:
    async with (
        serving(Service(), limits=ConnectionLimits(idle_seconds=0.1)) as address,
        own_channel(address) as channel,
    ):
        stub = DatasetServiceStub(channel)
        for _ in range(2):
            await stub.GetDataset(pb.GetDatasetRequest())
            assert channel.get_state() == grpc.ChannelConnectivity.READY
            await until_closed(channel)


async def test_an_old_connection_takes_no_new_call_and_lets_those_in_progress_go_on() -> None:
    service = Service()
    service.hang = True
    async with serving(service, limits=ConnectionLimits(age_seconds=0.1)) as address, own_channel(address) as channel:
        stub = DatasetServiceStub(channel)
        watch = stub.WatchImport(pb.WatchImportRequest())
        await watch.read()
        await until_closed(channel)
        service.hang = False
        while await watch.read() is not aio.EOF:
            pass
        assert await watch.code() == grpc.StatusCode.OK
        await stub.GetDataset(pb.GetDatasetRequest())


async def test_connections_above_the_bound_are_closed_and_free_again_later() -> None:
    async with serving(Service(), limits=ConnectionLimits(connections=3)) as address:
        async with AsyncExitStack() as stack:
            for _ in range(3):
                channel = await stack.enter_async_context(own_channel(address))
                await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest())
            async with own_channel(address) as fourth:
                with pytest.raises(aio.AioRpcError, match="UNAVAILABLE"):
                    await DatasetServiceStub(fourth).GetDataset(pb.GetDatasetRequest())
        async with own_channel(address) as channel:
            await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(), wait_for_ready=True, timeout=HANG)


async def test_calls_above_the_bound_of_a_connection_wait_for_those_before() -> None:
    service = Service()
    async with serving(service, limits=ConnectionLimits(streams=1)) as address, own_channel(address) as channel:
        stub = DatasetServiceStub(channel)
        await stub.GetDataset(pb.GetDatasetRequest())  # the server's settings have arrived
        service.hang = True
        watch = stub.WatchImport(pb.WatchImportRequest())
        await service.entered.wait()
        service.hang = False
        second = asyncio.ensure_future(stub.GetDataset(pb.GetDatasetRequest()))
        assert len(service.seen) == 4, "the second call has not arrived while the watch is in progress"
        await all_of(watch)
        await second
        await until(lambda: len(service.seen) == 5)


async def test_the_settings_of_a_service_bound_its_calls_and_connections() -> None:
    async with (
        running(concurrent_calls=1, connection_idle_seconds=0.1) as server,
        own_channel(server.address) as channel,
    ):
        server.service.hang = True
        stub = DatasetServiceStub(channel)
        hanging = asyncio.ensure_future(stub.GetDataset(pb.GetDatasetRequest(), wait_for_ready=True, timeout=HANG))
        await server.service.entered.wait()
        with pytest.raises(aio.AioRpcError, match="1 are in progress; retry"):
            await stub.GetDataset(pb.GetDatasetRequest())
        hanging.cancel()
        await until_closed(channel)
