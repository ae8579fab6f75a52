"""A service from start to stop: ready, draining, crashing, refusing to start, and speaking TLS."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from millstream.channel import open_channel
from millstream.credentials import Credentials
from millstream.dataset.v1 import dataset_service_pb2 as pb
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub, add_DatasetServiceServicer_to_server
from millstream.errors import Unavailable
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.runtime.serve import GrpcService, serve
from servicekit.runtime.settings import Settings
from servicekit.work.queue import Work
from tests.worlds.rpc import CONTRACT, NAME, Service
from tests.worlds.waiting import HANG, until

_GRPC_CORE = re.compile(r"[IWE]\d{4} ")
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


class Server:
    """serve() in this process, until stop()."""

    def __init__(self, **more: Any) -> None:
        self.service = Service()
        self.bus: MemoryBus = more.pop("bus", None) or MemoryBus()
        self.blobs: MemoryBlobs = more.pop("blobs", None) or MemoryBlobs()
        self.address = free_address()
        arguments = {name: more.pop(name) for name in ("background",) if name in more}
        if ready := more.pop("ready", None):
            self.service.ready = ready  # type: ignore[attr-defined]
        self.work = Work(self.blobs, self.bus, "dataprep", {}, [], resync_seconds=60)
        self.settings = Settings(listen=self.address, **more)
        part = GrpcService(CONTRACT, add_DatasetServiceServicer_to_server, self.service)
        running = serve(self.settings, "dataprep", [part], blobs=self.blobs, bus=self.bus, work=self.work, **arguments)
        self.task = asyncio.create_task(running)

    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    async def health(self, name: str = "", credentials: Any = None) -> int:
        opened = aio.secure_channel(self.address, credentials) if credentials else aio.insecure_channel(self.address)
        async with opened as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), wait_for_ready=True, timeout=HANG)
            return int(answer.status)

    async def until_ready(self) -> None:
        async with asyncio.timeout(HANG):
            while await self.health() != SERVING:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(**more: Any) -> AsyncIterator[Server]:
    server = Server(**more)
    await asyncio.sleep(0)
    try:
        yield server
    finally:
        if not server.task.done():
            server.stop()
        async with asyncio.timeout(HANG):
            await server.task


async def test_it_is_ready_by_every_name() -> None:
    async with running() as server:
        await server.until_ready()
        for name in ("", "readiness", "liveness", NAME, "blobs"):
            assert await server.health(name) == SERVING
        async with asyncio.timeout(HANG):
            while await server.health("bus") != SERVING:
                await asyncio.sleep(0.01)


async def test_it_is_alive_but_not_ready_while_it_cannot_do_its_job() -> None:
    away = [True]

    async def ready() -> None:
        if away:
            raise Unavailable("no store")

    async with running(ready=ready) as server:
        assert await server.health("liveness") == SERVING
        assert await server.health("readiness") == NOT_SERVING
        away.clear()
        await server.until_ready()


async def test_sigterm_says_not_serving_first_and_lets_a_call_in_flight_end() -> None:
    async with running(drain_seconds=15) as server:
        await server.until_ready()
        server.service.hang = True
        async with open_channel(server.address) as channel, aio.insecure_channel(server.address) as plain:
            stub = DatasetServiceStub(channel)
            reported: list[int] = []

            async def listen() -> None:
                health: Any = health_pb2_grpc.HealthStub(plain)
                with suppress(aio.AioRpcError):
                    async for answer in health.Watch(health_pb2.HealthCheckRequest()):
                        reported.append(answer.status)

            async def watch() -> None:
                async for _ in stub.WatchImport(pb.WatchImportRequest()):
                    pass

            async def upload() -> AsyncIterator[pb.ImportDatasetRequest]:
                yield pb.ImportDatasetRequest(chunk=b"first")
                await until(lambda: reported[-1:] == [NOT_SERVING])
                await asyncio.sleep(0.2)
                yield pb.ImportDatasetRequest(chunk=b"second")

            listening, watching = asyncio.create_task(listen()), asyncio.create_task(watch())
            await until(lambda: reported and server.service.entered.is_set())
            server.service.entered.clear()
            uploading = asyncio.ensure_future(stub.ImportDataset(upload()))
            await server.service.entered.wait()
            server.stop()
            with pytest.raises(Unavailable, match="stopping: retry"):
                await watching
            assert server.service.closed.is_set()
            assert (await uploading).dataset_import.request_id == "2"
            await listening
            assert reported == [SERVING, NOT_SERVING]
            async with asyncio.timeout(HANG):
                await server.task


async def test_a_background_task_that_breaks_ends_the_service_with_its_error() -> None:
    breaking = asyncio.Event()

    async def background() -> None:
        await breaking.wait()
        raise ValueError("a bug")

    server = Server(background=[background()])
    await server.until_ready()
    breaking.set()
    async with asyncio.timeout(HANG):
        with pytest.raises(ValueError, match="a bug"):
            await server.task


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, and a server's and a client's certificate signed by it."""
    openssl = shutil.which("openssl")
    if not openssl:
        pytest.skip("certificates are made with the openssl command, which is not installed")
    folder = tmp_path_factory.mktemp("certificates")

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority in ("ca", "other"):
        run(
            "req",
            "-x509",
            *key,
            "-keyout",
            f"{authority}.key",
            "-out",
            f"{authority}.pem",
            "-subj",
            "/CN=ca",
            "-days",
            "2",
        )
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        run("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-CAcreateserial", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *signing, "-extfile", "names", "-out", f"{name}.pem")
    return folder


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_and_mtls(certificates: Path, mutual: bool) -> None:
    def file(name: str) -> str:
        return str(certificates / name)

    settings = {name: file(f"server.{end}") for name, end in (("tls_cert_file", "pem"), ("tls_key_file", "key"))}
    settings["tls_ca_file"] = file("ca.pem")
    if mutual:
        settings["tls_client_ca_file"] = file("ca.pem")
    good = Credentials(
        ca_file=file("ca.pem"),
        cert_file=file("client.pem") if mutual else "",
        key_file=file("client.key") if mutual else "",
    )
    bad = [Credentials(), Credentials(ca_file=file("other.pem"))]
    if mutual:
        bad += [
            Credentials(ca_file=file("ca.pem")),
            Credentials(ca_file=file("ca.pem"), cert_file=file("stranger.pem"), key_file=file("stranger.key")),
        ]
    async with running(**settings) as server:
        async with open_channel(server.address, good, retry=True) as channel:
            await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(), wait_for_ready=True)
        for credentials in bad:
            async with open_channel(server.address, credentials) as channel:
                with pytest.raises(Unavailable):
                    await DatasetServiceStub(channel).GetDataset(pb.GetDatasetRequest(), timeout=HANG)


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The small service as its own process; its crash flag is the file that MILLSTREAM_RECIPES names."""
    started = []

    def start(**environment: str) -> subprocess.Popen[str]:
        named = {f"MILLSTREAM_{name.upper()}": value for name, value in environment.items()}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
        command = [sys.executable, "-m", "tests.worlds.rpc_server"]
        started.append(subprocess.Popen(command, env={**clean, **named}, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_what_it_cannot_use_is_said_in_one_line(taken: str, tmp_path: Path, start: Any) -> None:
    missing = str(tmp_path / "missing")
    cases = {
        f"cannot listen on {taken}": {"listen": taken},
        f"cannot serve metrics at {taken}": {"metrics_listen": taken},
        f"cannot read {missing}": {"tokens_file": missing},
        "cannot read": {"tls_cert_file": missing, "tls_key_file": missing, "tls_ca_file": missing},
    }
    started = {text: start(**environment) for text, environment in cases.items()}
    for text, process in started.items():
        _, errors = process.communicate(timeout=60)
        lines = [line for line in errors.splitlines() if not _GRPC_CORE.match(line)]
        assert process.returncode == 1, errors
        assert len(lines) == 1 and text in lines[0], errors


async def test_a_process_serves_shows_metrics_and_ends_by_signal_or_by_its_own_fault(
    tmp_path: Path, start: Any
) -> None:
    listen, metrics, second = free_address(), free_address(), free_address()
    flag = tmp_path / "crash"
    good = start(listen=listen, metrics_listen=metrics, recipes=str(tmp_path / "never"))
    broken = start(listen=second, recipes=str(flag))
    async with open_channel(listen) as channel, open_channel(second) as other:
        for opened in (channel, other):
            await DatasetServiceStub(opened).GetDataset(pb.GetDatasetRequest(), wait_for_ready=True, timeout=HANG)

    def show() -> str:
        with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=HANG) as page:
            return str(page.read().decode())

    shown = await asyncio.to_thread(show)
    assert 'grpc_server_handled_total{grpc_code="OK",grpc_method="GetDataset"' in shown
    assert "# HELP millstream_outbox_published_total" in shown
    flag.touch()
    good.send_signal(signal.SIGTERM)
    _, errors = await asyncio.to_thread(good.communicate, timeout=HANG)
    assert good.returncode == 0, errors
    assert [word for word in ('"serving"', '"draining"', '"stopped"') if word not in errors] == []
    _, errors = await asyncio.to_thread(broken.communicate, timeout=HANG)
    assert broken.returncode == 1 and "this background task has a bug" in errors
