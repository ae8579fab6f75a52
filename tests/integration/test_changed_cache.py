"""An artifact that changes on inference's disk between two starts is never served, by a real server."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process, create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deploy.local.ports import free_ports
from millstream import AsyncClient
from millstream.errors import NotFound, Unavailable
from millstream.registry.v1.registry_service_pb2 import DESCRIPTOR
from millstream.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from recipekit.predictor import write_golden
from recipekit.run import Data, LocalRun
from servicekit.blobs import artifacts
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.rpc.auth import Tokens
from servicekit.rpc.interceptor import ServerInterceptor, WithoutContext
from servicekit.rpc.server import open_server
from tests.recipes.toy_words.sample import rows
from tests.recipes.toy_words.spec import Config
from tests.recipes.toy_words.train import fit
from tests.worlds.inference import CATALOG, FakeRegistry, World
from tests.worlds.platform import ROOT
from tests.worlds.waiting import FLOW, HANG

CONTRACT = DESCRIPTOR.services_by_name["RegistryService"]
RARE = "quaint"
"""A word that the model has learnt to be good, and that no golden row has."""


def trained(folder: Path) -> Path:
    """An artifact's folder."""
    run = LocalRun(folder)
    data = Data(train=[*rows(), *[{"text": RARE, "label": "good"}] * 50], validation=rows(70, seed=3))
    fit(Config(), data, run)
    write_golden(run.artifact, CATALOG, data.validation)
    assert RARE not in (run.artifact / "golden.json").read_text()
    return run.artifact


class Registry(FakeRegistry):
    """A server needs the methods that inference does not call, too."""

    def __getattr__(self, name: str) -> Any:
        if not name[0].isupper():
            raise AttributeError(name)
        return self.GetModel


class Inference:
    """A replica in a process of its own, started as often as a test likes, on one cache."""

    def __init__(self, folder: Path, registry: str) -> None:
        self.cache, self.log = folder / "cache", folder / "inference.log"
        self.address = free_ports(1).addresses()["inference"]
        settings = {
            "listen": self.address, "metrics_listen": "", "registry": registry, "recipes": "tests.recipes",
            "blobs": f"directory:{folder / 'blobs'}", "bus": f"sqlite:{folder / 'bus.sqlite'}", "cache": str(self.cache),
        }  # fmt: skip
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLSTREAM_", "TEST_"))}
        self.environment = {**kept, **{f"MILLSTREAM_{name.upper()}": value for name, value in settings.items()}}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[AsyncClient]:
        """A client of it, from its start until its end."""
        with self.log.open("ab") as log:
            process: Process = await create_subprocess_exec(
                sys.executable, "-m", "services.inference", cwd=ROOT, env=self.environment, stdout=log, stderr=log
            )
        try:
            async with AsyncClient(inference=self.address) as client:
                yield client
        finally:
            process.terminate()
            assert await process.wait() == 0, self.log.read_text()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """The registry that inference calls has one model, `words`, whose champion is version 1."""
    made = World([trained(tmp_path / "trained")], tmp_path / "cache", registry=Registry())
    artifact = await artifacts.store(DirectoryBlobs(tmp_path / "blobs"), made.folders[0])
    made.register_artifact(artifact)
    await made.apply()
    await made.promote(1)
    yield made


@pytest.fixture
async def inference(world: World, tmp_path: Path) -> AsyncIterator[Inference]:
    server = open_server(ServerInterceptor(Tokens("", {})), [CONTRACT.full_name])
    add_RegistryServiceServicer_to_server(WithoutContext(world.registry), server)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Inference(tmp_path, f"127.0.0.1:{port}")
    await server.stop(None)


def change_a_weight(model: Path) -> None:
    """One byte: the minus of the word's weight for `bad` becomes a 9."""
    text = model.read_text()
    model.write_text(text.replace(f'"{RARE}": -', f'"{RARE}": 9', 1))
    assert json.loads(model.read_text())["weights"]["bad"][RARE] > 90
    assert model.stat().st_size == len(text)


async def answer(client: AsyncClient) -> tuple[str, float]:
    await client.wait_served("words", 1, timeout=FLOW)
    (found,) = (await client.classify("words", [RARE])).classifications
    return found.label, found.confidence


async def refused(client: AsyncClient) -> bool:
    """Whether it has tried the version, and will not serve it."""
    with suppress(Unavailable):  # it is starting
        return [problem.refused async for problem in client.load_problems("words")] == [True]
    return False


async def test_a_weight_that_changed_in_the_cache_is_not_served_after_a_restart(inference: Inference) -> None:
    async with inference.running() as client:
        right = await answer(client)
    assert right[0] == "good"
    (model,) = inference.cache.glob("*/model.json")
    whole = model.read_bytes()
    change_a_weight(model)
    async with inference.running() as client:
        assert await answer(client) == right
    assert model.read_bytes() == whole
    assert inference.log.read_text().count("cached artifact damaged and removed") == 1


async def test_a_weight_that_changed_in_cache_and_store_ends_in_the_error_of_a_damaged_artifact(
    inference: Inference, tmp_path: Path
) -> None:
    async with inference.running() as client:
        await answer(client)
    (model,) = inference.cache.glob("*/model.json")
    change_a_weight(model)
    blobs = DirectoryBlobs(tmp_path / "blobs")
    await blobs.put(f"artifacts/{model.parent.name}/files/model.json", model.read_bytes())
    async with inference.running() as client:
        async with asyncio.timeout(HANG):
            while not await refused(client):
                await asyncio.sleep(0.05)
        with pytest.raises(NotFound, match=r"version 1 of model words.*damaged"):
            await client.classify("words", [RARE])
    assert not model.exists()
