"""What callers decide over a real loopback server: how long their calls may take, and the token that they send."""

import asyncio
from pathlib import Path

import pytest

from millstream import files
from millstream.channel import call_timeout, open_channel, open_sync_channel
from millstream.credentials import Credentials
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import DeadlineExceeded, InvalidArgument, MillstreamError, Unauthenticated
from tests.worlds.rpc import Service, caught, caught_sync, serving


async def test_tokens_rotate_under_calls_and_none_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FRESH_SECONDS", 0.02)
    accepted, mine = tmp_path / "accepted", tmp_path / "mine"
    accepted.write_text("first ada writer\n")
    mine.write_text("first\n")
    credentials = Credentials.from_files(str(mine))
    async with serving(Service(), str(accepted)) as address, open_channel(address, credentials) as channel:
        stub, done, calls = DatasetServiceStub(channel), asyncio.Event(), 0

        async def call_on() -> int:
            count = 0
            while not done.is_set():
                await stub.GetDataset(pb.GetDatasetRequest(dataset="a"))
                count += 1
            return count

        callers = [asyncio.create_task(call_on()) for _ in range(4)]
        for old, new in (("first", "second"), ("second", "third")):
            for text, path in (
                (f"{old} ada writer\n{new} ada writer\n", accepted),
                (new, mine),
                (f"{new} ada writer\n", accepted),
            ):
                (tmp_path / "new").write_text(text)
                (tmp_path / "new").rename(path)
                await asyncio.sleep(0.2)
        done.set()
        calls = sum(await asyncio.gather(*callers))
        assert calls > 20
        async with open_channel(address, Credentials(token="first")) as late:
            with pytest.raises(Unauthenticated):
                await DatasetServiceStub(late).GetDataset(pb.GetDatasetRequest(dataset="a"))


@pytest.mark.parametrize("kind", ["unary", "server_stream"])
async def test_a_caller_says_how_long_its_calls_may_take(kind: str) -> None:
    service = Service()
    service.hang = True
    async with serving(service) as address, open_channel(address) as channel:
        with open_sync_channel(address) as sync_channel:
            stub, sync_stub = DatasetServiceStub(channel), DatasetServiceStub(sync_channel)

            def in_a_thread() -> MillstreamError:
                with call_timeout(0.2):
                    return caught_sync(sync_stub, kind)

            with call_timeout(0.2):
                assert type(await caught(stub, kind)) is DeadlineExceeded
            assert type(await asyncio.to_thread(in_a_thread)) is DeadlineExceeded
    with pytest.raises(InvalidArgument, match="leaves no time"), call_timeout(0):
        pass
