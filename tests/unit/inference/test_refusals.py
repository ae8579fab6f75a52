"""Versions that inference refuses, while it goes on serving the one before."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from millstream.errors import NotFound
from millstream.inference.v1.refusal_pb2 import Refusal
from millstream.operations.v1.stored_pb2 import Claim
from millstream.training.v1.training_run_pb2 import Artifact
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.ids import new_id
from servicekit.processes import process_here
from tests.worlds.inference import World, damaged, dead_attempt, metric, trained, until


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return trained(tmp_path_factory)


@pytest.fixture
async def world(folders: list[Path], tmp_path: Path) -> AsyncIterator[World]:
    made = World(folders, tmp_path / "cache")
    yield made
    for replica in made.replicas:
        await replica.stop()


@pytest.fixture(autouse=True)
def no_error_of_work_is_a_bug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if "bug" in record.getMessage()]


async def test_a_version_that_misses_its_golden_rows_is_refused_and_the_old_one_serves(
    world: World, tmp_path: Path
) -> None:
    await world.register(world.folders[1])
    await world.register(damaged(world.folders[2], tmp_path / "damaged"))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    await world.promote(2)
    await until(lambda: "refusals/words/0000000002/refusal" in world.blobs._objects)
    await until(lambda: replica.health.get("model/words/champion") is False)
    refusal = Refusal.FromString(await world.blobs.get("refusals/words/0000000002/refusal"))
    assert "golden row 0" in refusal.reason and refusal.version == 2 and refusal.HasField("time")
    assert (await replica.classify("a bright mill")).served.version == 1
    assert replica.health["model/words"] is True
    assert metric("refused_aliases", model="words") == 1
    loads = metric("model_loads_total", model="words", outcome="refused")
    await replica.work.resync()
    await until(lambda: not replica.work._states)
    assert metric("model_loads_total", model="words", outcome="refused") == loads, "it was tried again"
    # A replica that starts now serves what the others serve.
    later = await world.start().ready()
    assert later.version() == 1
    # The next good version heals it.
    await world.promote(await world.register(world.folders[0]))
    await until(lambda: replica.version() == 3 and replica.health["model/words/champion"])
    assert metric("refused_aliases", model="words") == 0
    assert not [key for key in world.blobs._keys if "/attempts/" in key]


async def test_a_first_version_that_is_refused_says_why(world: World, tmp_path: Path) -> None:
    await world.register(damaged(world.folders[2], tmp_path / "damaged"))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match=r"version 1 of model words.*golden row 0"):
        await replica.classify("a bright mill")
    assert replica.health == {"model/words": False, "model/words/champion": False}


@pytest.mark.parametrize("file", ["model.json", "golden.json", "artifact.json"])
async def test_a_broken_artifact_is_refused(world: World, tmp_path: Path, file: str) -> None:
    folder = damaged(world.folders[2], tmp_path / "broken")
    (folder / file).unlink()
    await world.register(folder)
    await world.apply()
    await world.promote(1)
    await world.start().ready()
    refusal = Refusal.FromString(await world.blobs.get("refusals/words/0000000001/refusal"))
    assert "cannot be loaded" in refusal.reason


async def test_a_recipe_that_only_this_replica_lacks_is_no_refusal(world: World, tmp_path: Path) -> None:
    folder = damaged(world.folders[2], tmp_path / "newer")
    (folder / "artifact.json").write_text('{"recipe": "newer", "config": {}}')
    await world.register(world.folders[1])
    await world.register(folder)
    await world.apply()
    await world.promote(2)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match=r"no recipe is named 'newer'.*Deploy one"):
        await replica.classify("a bright mill")
    assert not [key for key in world.blobs._keys if key.startswith("refusals/")]


async def test_bytes_that_were_damaged_in_the_store_are_refused(world: World) -> None:
    await world.register(world.folders[2])
    key = next(key for key in world.blobs._keys if key.endswith("files/model.json"))
    await world.blobs.put(key, b"{}")
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="damaged"):
        await replica.classify("a bright mill")


async def test_a_copy_that_was_damaged_in_the_cache_is_fetched_again(world: World) -> None:
    await world.register(world.folders[2])
    digest = artifacts.describe(world.folders[2]).digest
    folder = await ArtifactCache(world.blobs, world.cache).fetch(digest)
    (folder / "model.json").write_text("{}")
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1 and artifacts.describe(folder).digest == digest


async def test_a_version_that_killed_three_processes_is_refused(world: World) -> None:
    await world.register(world.folders[1])
    for _ in range(3):
        await dead_attempt(world)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="3 processes died"):
        await replica.classify("a bright mill")


async def test_a_load_that_succeeds_forgives_two_deaths(world: World) -> None:
    await world.register(world.folders[1])
    for _ in range(2):
        await dead_attempt(world)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1
    assert not [key for key in world.blobs._keys if "/attempts/" in key]


async def test_loads_of_running_processes_do_not_count(world: World) -> None:
    sleeper = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        claim = Claim(process=process_here(sleeper.pid))
        for _ in range(3):
            await world.blobs.put(f"refusals/words/0000000001/attempts/{new_id()}", claim.SerializeToString())
        await world.register(world.folders[1])
        await world.apply()
        await world.promote(1)
        replica = await world.start().ready()
        assert replica.version() == 1
    finally:
        await sleeper.communicate(b"\n")


async def test_an_artifact_that_is_missing_ends_in_a_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicekit.work.queue.MOST_TRIES", {NotFound: 2})
    world.register_artifact(Artifact(digest="0" * 32))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="no object artifacts/"):
        await replica.classify("a bright mill")
