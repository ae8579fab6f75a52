"""The clients on a real gRPC server: retries, watches, pages, transfers; importing them is light."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from millstream import AsyncClient, Client
from millstream.client.inputs import model_spec
from millstream.client.shared import WatchDeadline
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceServicer, add_DatasetServiceServicer_to_server
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DeadlineExceeded, InvalidArgument, Unavailable
from millstream.files import file_digest
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import Model, ModelVersion
from millstream.registry.v1.registry_service_pb2_grpc import (
    RegistryServiceServicer,
    add_RegistryServiceServicer_to_server,
)
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile
from tools.derive_client import derived


def test_the_blocking_client_is_fresh() -> None:
    for path, text in derived().items():
        assert path.read_text() == text, "run `python tools/derive_client.py`"


def test_importing_the_client_brings_grpc_and_protobuf_only() -> None:
    code = "import sys, millstream; millstream.Client().close(); print('\\n'.join(m.partition('.')[0] for m in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not set(run.stdout.split()) & {"typer", "rich", "yaml", "pydantic", "servicekit", "recipekit", "numpy"}


class Service(DatasetServiceServicer, RegistryServiceServicer):
    """Answers a few calls; the next `away` of them with UNAVAILABLE."""

    def __init__(self) -> None:
        self.away = 0
        self.request_ids: list[str] = []
        self.received = b""
        self.watched = 0
        self.files = {"model.json": b"{}", "deep/words.txt": b"a" * 100}
        self.damage = False

    def _perhaps_away(self, context: Any) -> None:
        if self.away:
            self.away -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "away")

    def ImportDataset(self, request_iterator: Any, context: Any) -> dataset.ImportDatasetResponse:
        first, *chunks = list(request_iterator)
        self.request_ids.append(first.header.request_id)
        self._perhaps_away(context)
        self.received = b"".join(part.chunk for part in chunks)
        made = Import(request_id=first.header.request_id, dataset=first.header.dataset, spec=first.header.spec)
        return dataset.ImportDatasetResponse(dataset_import=made)

    def WatchImport(self, request: Any, context: Any) -> Iterator[dataset.WatchImportResponse]:
        self.watched += 1
        running = Import(request_id=request.request_id, state=Import.STATE_RUNNING, rows_read=self.watched)
        yield dataset.WatchImportResponse(dataset_import=running)
        self._perhaps_away(context)
        ended = Import(request_id=request.request_id, state=Import.STATE_SUCCEEDED, rows_read=9)
        yield dataset.WatchImportResponse(dataset_import=ended)

    def ListModels(self, request: Any, context: Any) -> registry.ListModelsResponse:
        start = int(request.page_token or 0)
        models = [Model(name=f"model-{i}") for i in range(start, start + 2)]
        return registry.ListModelsResponse(models=models, next_page_token=str(start + 2) if start < 4 else "")

    def ApplyModel(self, request: Any, context: Any) -> registry.ApplyModelResponse:
        self.request_ids.append(request.request_id)
        self._perhaps_away(context)
        return registry.ApplyModelResponse(model=Model(name=request.spec.model, spec=request.spec))

    def GetModelVersion(self, request: Any, context: Any) -> registry.GetModelVersionResponse:
        assert request.version or request.alias == "champion"
        files = [
            ArtifactFile(path=name, digest=DIGESTS[name], size_bytes=len(data)) for name, data in self.files.items()
        ]
        version = ModelVersion(model=request.model, version=3, artifact=Artifact(digest="d", files=files))
        return registry.GetModelVersionResponse(model_version=version)

    def DownloadArtifact(self, request: Any, context: Any) -> Iterator[registry.DownloadArtifactResponse]:
        for name, data in self.files.items():
            for chunk in (data[:50], b"x" if self.damage else data[50:]):
                yield registry.DownloadArtifactResponse(path=name, chunk=chunk)


DIGESTS: dict[str, str] = {}
SERVER = "server"
"""Begins the names of the threads that answer."""


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def address(service: Service, tmp_path: Path) -> Iterator[str]:
    for name, data in service.files.items():
        (tmp_path / "digest").write_bytes(data)
        DIGESTS[name] = file_digest(tmp_path / "digest")
    threads = ThreadPoolExecutor(4, SERVER)
    server = grpc.server(threads)
    add_DatasetServiceServicer_to_server(service, server)
    add_RegistryServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()
    threads.shutdown()


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(dataprep=address, registry=address) as client:
        yield client


def test_a_listing_walks_through_all_pages(client: Client) -> None:
    assert [model.name for model in client.models()] == [f"model-{i}" for i in range(6)]


async def test_the_async_client_does_the_same(address: str, service: Service, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b"{}\n" * 600_000)
    async with AsyncClient(dataprep=address, registry=address) as client:
        assert [model.name async for model in client.models()] == [f"model-{i}" for i in range(6)]
        made = await client.import_dataset(file, "words", recipe="toy_words")
        assert (made.dataset, made.spec.recipe) == ("words", "toy_words")
        assert service.received == file.read_bytes()
        assert (await client.wait_import("words", made.request_id, timeout=10)).rows_read == 9


def test_a_create_is_retried_with_the_same_request_id(client: Client, service: Service, tmp_path: Path) -> None:
    service.away = 2
    assert client.apply_model({"model": "toy", "promotion": {"automatic": True}}).spec.promotion.automatic
    (tmp_path / "rows.csv").write_text("text\nhello\n")
    service.away = 1
    client.import_dataset(tmp_path / "rows.csv", "words")
    assert service.received == b"text\nhello\n"
    applied, imported = service.request_ids[:3], service.request_ids[3:]
    assert len(set(applied)) == 1 and len(set(imported)) == 1 and len(imported) == 2


def test_an_import_with_an_unknown_mode_is_refused(client: Client, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\nhello\n")
    mode: Any = "merge"
    with pytest.raises(InvalidArgument, match="use append or replace"):
        client.import_dataset(tmp_path / "rows.csv", "words", mode=mode)


def test_a_broken_watch_is_opened_again(client: Client, service: Service) -> None:
    service.away = 1
    rows = [each.rows_read for each in client.watch_import("words", "one", timeout=10)]
    assert rows == [1, 2, 9]


def test_an_artifact_is_downloaded_and_checked(client: Client, service: Service, tmp_path: Path) -> None:
    assert client.download_artifact("toy", tmp_path / "model").version == 3
    assert (tmp_path / "model/deep/words.txt").read_bytes() == b"a" * 100
    service.damage = True
    with pytest.raises(Unavailable, match="is incomplete or damaged"):
        client.download_artifact("toy", tmp_path / "again", version=3)


def test_an_artifact_cannot_leave_its_folder(client: Client, service: Service, tmp_path: Path) -> None:
    service.files = {"../../evil": b"x"}
    DIGESTS["../../evil"] = "d"
    with pytest.raises(InvalidArgument, match="would leave its folder"):
        client.download_artifact("toy", tmp_path / "model")


def test_a_wrong_field_of_a_spec_is_named() -> None:
    with pytest.raises(InvalidArgument, match="promotoin"):
        model_spec({"model": "toy", "promotoin": {}})
    with pytest.raises(InvalidArgument, match="promotion"):
        model_spec({"model": "toy", "promotion": "AUTOMATIC"})


def test_a_service_that_is_down_is_unavailable() -> None:
    with Client(registry="127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.model("toy")


def test_a_watch_gives_up_at_its_timeout_or_without_answers() -> None:
    deadline = WatchDeadline(0.0, "the run has not ended")
    with pytest.raises(DeadlineExceeded, match="after 0 s the run has not ended"):
        deadline.remaining()
    silent = WatchDeadline(None, "it has not ended", max_silence=-1.0)
    with pytest.raises(Unavailable, match="gone"):
        silent.backoff(Unavailable("gone"))


def test_the_backoff_is_exponential_up_to_a_second_and_begins_anew_after_an_answer() -> None:
    deadline = WatchDeadline(None, "it has not ended")
    assert [deadline.backoff() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    deadline.answered()
    assert deadline.backoff() == 0.1


def test_no_thread_stays_behind(address: str) -> None:
    def call() -> None:
        with Client(registry=address) as client:
            list(client.models())

    def names() -> dict[int | None, str]:
        return {each.ident: each.name for each in threading.enumerate() if not each.name.startswith(SERVER)}

    # gRPC has a thread of its own, which comes with the first call and goes when it likes.
    call()
    before = names()
    for _ in range(5):
        call()
    deadline = time.monotonic() + 30
    while len(more := [name for ident, name in names().items() if ident not in before]) > 1:
        assert time.monotonic() < deadline, f"five clients that were closed left {more}"
        time.sleep(0.05)


def test_an_async_client_made_outside_of_a_loop_works_in_the_first_and_names_itself_in_a_second() -> None:
    client = AsyncClient(registry="127.0.0.1:1")

    async def models() -> list[Any]:
        return [model async for model in client.models()]

    with pytest.raises(Unavailable):
        asyncio.run(models())
    with pytest.raises(InvalidArgument, match="first used in another event loop: make one in each"):
        asyncio.run(models())


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1:", "127.0.0.1:65536", ":1", "127.0.0.1:1,127.0.0.1"])
def test_an_address_without_host_or_port_is_refused_by_both_clients(address: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidArgument, match=r"is no host:port, such as 127\.0\.0\.1:50051"):
            kind(registry=address)
