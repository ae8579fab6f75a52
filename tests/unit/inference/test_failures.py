"""Troubles of one replica: they keep no other model waiting, are no verdict on the version, and are tried again."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import Unavailable
from millstream.inference.v1.inference_service_pb2 import ListLoadProblemsRequest, RetryModelVersionRequest
from millstream.training.v1.training_run_pb2 import Artifact
from recipekit.predictor import load_artifact
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ArtifactCache
from services.inference.reconcile import FALLBACKS
from services.inference.versions import loader
from services.inference.versions.loader import MOST_HUNG
from tests.worlds.inference import Replica, World
from tests.worlds.waiting import HANG, until

Load = Callable[[Path, Any], Any]


class Device:
    """Loads artifacts as they are, except that this machine has trouble with those named here."""

    def __init__(self) -> None:
        self.errors: dict[str, BaseException] = {}
        self.hangs: set[str] = set()
        self.loads: list[str] = []
        self.release = threading.Event()

    def load(self, folder: Path, catalog: Any) -> Any:
        self.loads.append(folder.name)
        if folder.name in self.hangs:
            self.release.wait(HANG)
        if error := self.errors.get(folder.name):
            raise error
        return load_artifact(folder, catalog)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    made = Device()
    monkeypatch.setattr(loader, "load_artifact", made.load)
    yield made
    made.release.set()


def digest(world: World, number: int) -> str:
    return str(artifacts.describe(world.folders[number]).digest)


async def serve(world: World, model: str, number: int) -> None:
    """Have the model served by the artifact with this number."""
    await world.register(world.folders[number], model)
    await world.apply(model)
    await world.promote(1, model)


async def two_models(world: World) -> None:
    await serve(world, "aside", 0)
    await serve(world, "words", 2)


async def problem(replica: Replica) -> str:
    (found,) = (await replica.service.ListLoadProblems(ListLoadProblemsRequest())).problems
    assert not found.refused
    return str(found.reason)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError("40 GiB"), "no memory for artifact"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "RuntimeError: CUDA error"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (SystemExit(3), "SystemExit(3)"),
    ],
)
async def test_what_one_machine_lacks_is_no_verdict_and_holds_up_no_other_model(
    error: BaseException, said: str, world: World, device: Device
) -> None:
    await two_models(world)
    device.errors[digest(world, 0)] = error
    replica = await world.start().ready()
    await until(lambda: replica.version() == 1)
    assert said in await problem(replica)
    with pytest.raises(
        Unavailable, match="version 1 of model aside, named by alias champion, is not served by this rep"
    ):
        await replica.classify("a mill", model="aside")
    assert replica.health["model/aside/champion"] is False and replica.health["model/words/champion"]
    assert not [key for key in world.blobs._keys if key.endswith("/refusal")], "another replica would refuse it too"
    # Not tried again before its time, then it is, and is served.
    await replica.resynced()
    assert device.loads.count(digest(world, 0)) == 1
    device.errors.clear()
    replica.time = 30.0
    await replica.resynced()
    await until(lambda: replica.version("aside") == 1 and replica.health["model/aside/champion"])


async def test_the_pause_doubles_and_an_operator_ends_it(world: World, device: Device) -> None:
    await world.register(world.folders[0])
    await world.apply()
    await world.promote(1)
    device.errors[digest(world, 0)] = RuntimeError("CUDA error")
    replica = await world.start().ready()
    for time, loads in ((29.0, 1), (30.0, 2), (89.0, 2), (90.0, 3)):
        replica.time = time
        await replica.resynced()
        assert len(device.loads) == loads, time
    device.errors.clear()
    await replica.service.RetryModelVersion(RetryModelVersionRequest(model="words", version=1))
    await until(lambda: replica.version() == 1)


async def test_a_disk_that_is_full_holds_up_no_other_model(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await two_models(world)
    full, fetch = digest(world, 0), ArtifactCache.fetch

    async def no_space(self: ArtifactCache, wanted: str) -> Path:
        if wanted == full:
            raise OSError(28, "No space left on device")
        return await fetch(self, wanted)

    monkeypatch.setattr(ArtifactCache, "fetch", no_space)
    replica = await world.start().ready()
    await until(lambda: replica.version() == 1)
    assert "No space left" in await problem(replica)


async def test_an_artifact_that_the_store_lacks_is_looked_for_again(world: World) -> None:
    artifact = await artifacts.store(world.blobs, world.folders[0])
    objects = {key: await world.blobs.get(key) for key in list(world.blobs._keys) if artifact.digest in key}
    for key in objects:
        await world.blobs.delete(key)
    world.register_artifact(Artifact(digest=artifact.digest))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert "no object artifacts/" in await problem(replica)
    for key, data in objects.items():
        await world.blobs.put(key, data)
    replica.time = 30.0
    await replica.resynced()
    await until(lambda: replica.version() == 1)


async def test_a_load_that_hangs_keeps_no_other_model_waiting(world: World, device: Device) -> None:
    await serve(world, "aside", 0)
    device.hangs.add(digest(world, 0))
    replica = world.start(load_limit_seconds=0.2)
    await until(lambda: replica.loader._hung)
    replica.store.load_limit_seconds = 600.0  # for the loads of others, whatever this machine's speed
    await serve(world, "words", 2)
    await until(lambda: replica.version() == 1)
    assert await replica.is_ready()
    assert "its load has not ended within 0.2 s" in await problem(replica)
    assert (await replica.classify("a mill")).served.version == 1 and "liveness" not in replica.health
    # While it hangs it is not begun again, and its attempt stays: if this process dies of it, that counts.
    replica.time = 10**6
    await replica.resynced()
    assert device.loads.count(digest(world, 0)) == 1
    assert [key for key in world.blobs._keys if "refusals/aside/0000000001/attempts/" in key]
    # Once it ends, what it loaded is dropped, and the next try serves.
    device.hangs.clear()
    device.release.set()
    await until(lambda: not replica.loader._hung)
    replica.time = 10**7
    await replica.resynced()
    await until(lambda: replica.version("aside") == 1)
    assert not [key for key in world.blobs._keys if "/attempts/" in key]


async def test_a_replica_in_which_too_many_loads_hang_asks_for_a_restart(world: World, device: Device) -> None:
    await serve(world, "words", 2)
    replica = await world.start().ready()
    device.hangs.add(digest(world, 1))
    replica.store.load_limit_seconds = 0.05
    for number in range(MOST_HUNG):
        await serve(world, f"hung-{number}", 1)
    await until(lambda: replica.health.get("liveness") is False)
    assert (await replica.classify("a mill")).served.version == 1, "what is loaded goes on"
    await serve(world, "late", 0)
    await until(lambda: "late" in [model for model, _, _ in replica.serving.problems()])
    assert device.loads.count(digest(world, 0)) == 0, "no other load is begun: it would take memory that hangs"


async def test_a_broken_device_is_not_tried_with_every_version_there_ever_was(world: World, device: Device) -> None:
    await world.apply()
    for number in range(6):
        await world.promote(await world.register(world.folders[0]))
        await world.promote(number + 1)
    device.errors[digest(world, 0)] = RuntimeError("CUDA error")
    replica = await world.start().ready()
    assert "CUDA error" in await problem(replica)
    assert len(device.loads) == 1 + FALLBACKS, "the version that the alias names, and its fallbacks"
