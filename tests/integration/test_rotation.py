"""Certificates and tokens are rotated under calls, over mutual TLS: none fails, and what was removed is refused after."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest

from deploy.servers.certificates import Authority, can_make_certificates
from millstream import files
from millstream.channel import open_channel, open_sync_channel
from millstream.credentials import Credentials
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.errors import InvalidArgument, Unauthenticated, Unavailable
from servicekit.runtime.settings import Settings
from servicekit.runtime.tls import server_credentials
from tests.integration.test_runtime_serve import Server, running
from tests.worlds.waiting import HANG, until

pytestmark = pytest.mark.skipif(not can_make_certificates(), reason="makes its certificates with openssl")
ASKED = pb.GetDatasetRequest(dataset="a")
NAMES = ("ca.pem", "server.pem", "server.key", "client.pem", "client.key", "accepted", "mine")


class Live:
    """The files that server and callers watch, each replaced by a rename."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def put(self, name: str, data: bytes) -> None:
        (self.folder / "new").write_bytes(data)
        (self.folder / "new").rename(self.folder / name)

    def put_pairs(self, authority: Authority) -> None:
        for name in ("server", "client"):
            for path in authority.pair(name):
                self.put(path.name, path.read_bytes())

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def settings(self) -> dict[str, str]:
        return {
            "tls_cert_file": self.path("server.pem"),
            "tls_key_file": self.path("server.key"),
            "tls_ca_file": self.path("ca.pem"),
            "tls_client_ca_file": self.path("ca.pem"),
            "tokens_file": self.path("accepted"),
        }

    def credentials(self) -> Credentials:
        return Credentials.from_files(*(self.path(name) for name in ("mine", "ca.pem", "client.pem", "client.key")))


@pytest.fixture
def authorities(tmp_path: Path) -> tuple[Authority, Authority]:
    return Authority.make(tmp_path / "old", "old"), Authority.make(tmp_path / "new", "new")


@pytest.fixture
def live(tmp_path: Path, authorities: tuple[Authority, Authority], monkeypatch: pytest.MonkeyPatch) -> Live:
    monkeypatch.setattr(files, "FRESH_SECONDS", 0.01)
    made = Live(tmp_path / "live")
    made.put("ca.pem", authorities[0].ca_file.read_bytes())
    made.put_pairs(authorities[0])
    made.put("accepted", b"old ada writer\n")
    made.put("mine", b"old\n")
    return made


class Callers:
    """Call without end, by asyncio and in a thread, until stop(), which raises the first error."""

    def __init__(self, address: str, credentials: Credentials) -> None:
        self.count = {"asyncio": 0, "thread": 0}
        self._done = threading.Event()
        self._tasks = [
            asyncio.create_task(self._call(address, credentials)),
            asyncio.create_task(asyncio.to_thread(self._call_in_thread, address, credentials)),
        ]

    async def _call(self, address: str, credentials: Credentials) -> None:
        async with open_channel(address, credentials, retry=True) as channel:
            stub = DatasetServiceStub(channel)
            while not self._done.is_set():
                await stub.GetDataset(ASKED)
                self.count["asyncio"] += 1

    def _call_in_thread(self, address: str, credentials: Credentials) -> None:
        with open_sync_channel(address, credentials, retry=True) as channel:
            stub = DatasetServiceStub(channel)
            while not self._done.is_set():
                stub.GetDataset(ASKED)
                self.count["thread"] += 1

    async def go_on(self) -> None:
        """Wait until both have called some more, or one has failed."""
        before = dict(self.count)
        await until(
            lambda: all(self.count[name] > before[name] + 20 for name in before) or any(t.done() for t in self._tasks)
        )
        for task in self._tasks:
            assert not task.done(), task.exception()

    async def stop(self) -> None:
        self._done.set()
        await asyncio.gather(*self._tasks)


@asynccontextmanager
async def called(live: Live) -> AsyncIterator[tuple[Server, Callers]]:
    """A server whose connections are soon too old, so that callers connect again and again."""
    async with running(**live.settings(), connection_age_seconds=0.1) as server:
        async with open_channel(server.address, live.credentials()) as channel:
            await DatasetServiceStub(channel).GetDataset(ASKED, wait_for_ready=True, timeout=HANG)
        callers = Callers(server.address, live.credentials())
        await callers.go_on()
        yield server, callers
        await callers.stop()


async def refused(server: Server, credentials: Credentials) -> bool:
    async with open_channel(server.address, credentials) as channel:
        try:
            await DatasetServiceStub(channel).GetDataset(ASKED, timeout=HANG)
        except (Unavailable, Unauthenticated):
            return True
    return False


async def test_certificates_and_tokens_rotate_under_calls(
    live: Live, authorities: tuple[Authority, Authority], tmp_path: Path
) -> None:
    old, new = authorities
    kept = Live(tmp_path / "kept")
    for name in NAMES:
        kept.put(name, (live.folder / name).read_bytes())
    async with called(live) as (server, callers):
        live.put("ca.pem", old.ca_file.read_bytes() + new.ca_file.read_bytes())
        live.put("accepted", b"old ada writer\nnew ada writer\n")
        await callers.go_on()
        live.put_pairs(new)
        live.put("mine", b"new\n")
        await callers.go_on()
        live.put("ca.pem", new.ca_file.read_bytes())
        live.put("accepted", b"new ada writer\n")
        await callers.go_on()

        old_token = Credentials("old", live.path("ca.pem"), live.path("client.pem"), live.path("client.key"))
        old_pair = Credentials("new", live.path("ca.pem"), kept.path("client.pem"), kept.path("client.key"))
        old_authority = Credentials("new", kept.path("ca.pem"), live.path("client.pem"), live.path("client.key"))
        for credentials in (old_token, old_pair, old_authority):
            await until(partial(refused, server, credentials))
        await callers.go_on()


async def test_a_rotation_by_half_changes_nothing(live: Live, authorities: tuple[Authority, Authority]) -> None:
    _, new = authorities
    async with called(live) as (_, callers):
        for name in ("server", "client"):
            live.put(f"{name}.pem", new.pair(name)[0].read_bytes())
        live.put("ca.pem", b"-----BEGIN CERTIFICATE-----\n")
        await callers.go_on()
        await callers.go_on()


def test_files_that_cannot_be_used_are_refused_at_the_start(live: Live) -> None:
    settings = Settings(**live.settings())  # type: ignore[arg-type]
    live.put("server.key", (live.folder / "client.key").read_bytes())
    with pytest.raises(SystemExit, match=r"server.pem and .*server.key are no certificate and its key"):
        server_credentials(settings)
    live.put("ca.pem", b"")
    with pytest.raises(InvalidArgument, match=r"ca.pem has no certificate that can be read"):
        live.credentials().ssl()
    (live.folder / "server.key").unlink()
    with pytest.raises(SystemExit, match=r"cannot read .*server.key: No such file"):
        server_credentials(settings)
