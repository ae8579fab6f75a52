"""Versions that inference refuses, while it goes on serving the one before."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.errors import InvalidArgument, NotFound, Unavailable
from millstream.inference.v1.inference_service_pb2 import ListLoadProblemsRequest, RetryModelVersionRequest
from millstream.inference.v1.refusal_pb2 import Refusal, RefusalLift
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ArtifactCache
from tests.worlds.inference import World, damaged, metric
from tests.worlds.waiting import until


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
    await replica.resynced()
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
    with pytest.raises(Unavailable, match=r"not served by this replica: .*no recipe is named 'newer'.*Deploy one"):
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


async def test_a_version_whose_copy_and_artifact_are_both_damaged_is_refused(world: World) -> None:
    await world.register(world.folders[2])
    digest = artifacts.describe(world.folders[2]).digest
    folder = await ArtifactCache(world.blobs, world.cache).fetch(digest)
    for name in ("model.json", "golden.json"):
        (folder / name).write_text("{}")
        await world.blobs.put(f"artifacts/{digest}/files/{name}", b"{}")
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match=f"artifacts/{digest} have the digest .*damaged"):
        await replica.classify("a bright mill")
    assert not folder.exists()


async def test_an_operator_lifts_a_refusal_and_every_replica_tries_again(world: World) -> None:
    await world.register(world.folders[1])
    await world.register(world.folders[2])
    key = next(
        key for key in world.blobs._keys if artifacts.describe(world.folders[2]).digest in key and "model" in key
    )
    whole = await world.blobs.get(key)
    await world.blobs.put(key, b"{}")
    await world.apply()
    await world.promote(1)
    await world.promote(2)
    replicas = [await world.start().ready(), await world.start().ready()]
    (problem,) = (await replicas[1].service.ListLoadProblems(ListLoadProblemsRequest())).problems
    assert (problem.alias, problem.version, problem.refused) == ("champion", 2, True) and "damaged" in problem.reason
    assert [replica.version() for replica in replicas] == [1, 1]
    # The store is repaired; no replica looks again by itself.
    await world.blobs.put(key, whole)
    for replica in replicas:
        await replica.resynced()
    assert [replica.version() for replica in replicas] == [1, 1]
    request = RetryModelVersionRequest(model="words", version=2, note="store repaired")
    lift = (await replicas[0].service.RetryModelVersion(request)).lift
    assert "damaged" in lift.refusal.reason and (lift.actor, lift.note) == ("local", "store repaired")
    await until(lambda: replicas[0].version() == 2)
    await replicas[1].work.resync()
    await until(lambda: replicas[1].version() == 2 and replicas[1].health["model/words/champion"])
    assert not (await replicas[1].service.ListLoadProblems(ListLoadProblemsRequest(model="words"))).problems
    (kept,) = [key for key in world.blobs._keys if key.startswith("refusals/")]
    assert RefusalLift.FromString(await world.blobs.get(kept)) == lift


async def test_a_version_that_is_still_at_fault_is_refused_again(world: World, tmp_path: Path) -> None:
    await world.register(damaged(world.folders[2], tmp_path / "damaged"))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    key = "refusals/words/0000000001/refusal"
    before = Refusal.FromString(await world.blobs.get(key))
    await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words", version=1))
    await until(lambda: key in world.blobs._keys)
    again = Refusal.FromString(await world.blobs.get(key))
    assert again.reason == before.reason and again.time.ToNanoseconds() > before.time.ToNanoseconds()


async def test_a_retry_names_what_is_served_here(world: World) -> None:
    await world.apply()
    replica = await world.start().ready()
    await until(lambda: "words" in replica.serving.models())
    with pytest.raises(NotFound, match="no model is named 'birds'"):
        await replica.service.RetryModelVersion(RetryModelVersionRequest(model="birds", version=1))
    with pytest.raises(NotFound, match="no version"):
        await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words", version=7))
    assert not [key for key in world.blobs._keys if "/lifts/" in key]
    with pytest.raises(InvalidArgument, match="version is 0"):
        await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words"))
    with pytest.raises(InvalidArgument, match="note has 2,001 characters"):
        await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words", version=1, note="n" * 2001))
