"""Inference as its callers and its registry see it: the service object and its Work, on memory adapters."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from millrace.errors import InvalidArgument, NotFound, Unavailable
from millrace.inference.v1.inference_service_pb2 import ClassifyRequest, ClassifyResponse, ListServedModelsRequest
from millrace.inference.v1.refusal_pb2 import Refusal
from millrace.operations.v1.stored_pb2 import Claim
from millrace.registry.v1.events_pb2 import AliasMoved, ModelApplied
from millrace.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millrace.registry.v1.registry_service_pb2 import (
    GetAliasRequest,
    GetAliasResponse,
    GetModelRequest,
    GetModelResponse,
    GetModelVersionRequest,
    GetModelVersionResponse,
    ListAliasEntriesRequest,
    ListAliasEntriesResponse,
    ListModelsRequest,
    ListModelsResponse,
)
from millrace.training.v1.training_run_pb2 import Artifact
from recipekit.catalog import Catalog
from recipekit.predictor import Predictor, load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun
from servicekit import artifacts
from servicekit.blobs import Listed, MemoryBlobs
from servicekit.bus import MemoryBus, Message
from servicekit.claims import this_process
from servicekit.events import from_message, to_message
from servicekit.ids import new_id
from servicekit.work import Work
from services.inference.handlers import HANDLERS
from services.inference.loader import Loader, prune
from services.inference.reconcile import PruneCache, ServeModel
from services.inference.service import InferenceService
from services.inference.serving import Serving
from services.inference.store import Store
from services.inference.waiting import Limits
from tests.recipes.toy_words.sample import rows
from tests.recipes.toy_words.spec import Config
from tests.recipes.toy_words.train import fit

CATALOG = Catalog(("tests.recipes",))
TEXTS = [row["text"] for row in rows(40, seed=11)]


@dataclass
class FakeRegistry:
    """What the registry would answer; `down` makes it answer nothing."""

    models: dict[str, list[str]] = field(default_factory=dict)
    entries: dict[tuple[str, str], list[AliasEntry]] = field(default_factory=dict)
    versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    down: bool = False
    answers_late: AliasEntry | None = None

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the registry is down")

    def _model(self, name: str) -> Model:
        if name not in self.models:
            raise NotFound(f"no model {name}")
        model = Model(name=name, etag="1")
        model.spec.model = name
        model.spec.serving.aliases.extend(self.models[name])
        return model

    async def ListModels(self, request: ListModelsRequest) -> ListModelsResponse:
        self._check()
        return ListModelsResponse(models=[self._model(name) for name in sorted(self.models)])

    async def GetModel(self, request: GetModelRequest) -> GetModelResponse:
        self._check()
        return GetModelResponse(model=self._model(request.model))

    async def GetAlias(self, request: GetAliasRequest) -> GetAliasResponse:
        self._check()
        if self.answers_late:
            return GetAliasResponse(entry=self.answers_late)
        if not (entries := self.entries.get((request.model, request.alias))):
            raise NotFound("no entry")
        return GetAliasResponse(entry=entries[-1])

    async def ListAliasEntries(self, request: ListAliasEntriesRequest) -> ListAliasEntriesResponse:
        self._check()
        return ListAliasEntriesResponse(entries=self.entries.get((request.model, request.alias), [])[::-1])

    async def GetModelVersion(self, request: GetModelVersionRequest) -> GetModelVersionResponse:
        self._check()
        if (request.model, request.version) not in self.versions:
            raise NotFound("no version")
        return GetModelVersionResponse(model_version=self.versions[request.model, request.version])


class Blobs(MemoryBlobs):
    down = False

    async def get(self, key: str) -> bytes:
        self._check()
        return await super().get(key)

    async def put(self, key: str, data: bytes) -> None:
        self._check()
        await super().put(key, data)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        self._check()
        async for listed in super().list(prefix, after):
            yield listed

    def _check(self) -> None:
        if self.down:
            raise Unavailable("the store is down")


class Bus(MemoryBus):
    down = False

    async def publish(self, message: Message) -> None:
        if self.down:
            raise Unavailable("the bus is down")
        await super().publish(message)


class Replica:
    """One inference process without its sockets."""

    def __init__(self, world: "World", look_seconds: float = 1000.0) -> None:
        self.serving, self.health = Serving(), dict[str, bool]()
        self.pool = ThreadPoolExecutor(2)
        self.store = Store(world.blobs, load_limit_seconds=600)
        loader = Loader(world.blobs, self.store, CATALOG, world.cache, Limits(), self.pool)
        registry: Any = world.registry
        models = ServeModel(registry, self.store, loader, self.serving, world.bus, self._set_health)
        pruning = PruneCache(world.cache, self.serving, 3600)
        self.work = Work(world.bus, "inference", HANDLERS, [models, pruning], look_seconds=look_seconds, broadcast=True)
        self.service = InferenceService(self.serving)
        self.task = asyncio.create_task(self.work.run())

    async def _set_health(self, name: str, serving: bool) -> None:
        self.health[name] = serving

    async def is_ready(self) -> bool:
        try:
            await self.serving.ready()
        except Unavailable:
            return False
        return True

    async def ready(self) -> "Replica":
        await until(self.is_ready)
        return self

    def version(self, model: str = "words", alias: str = "champion") -> int:
        loaded = self.serving.loaded(model).get(alias)
        return int(loaded.source.version) if loaded else 0

    async def classify(self, *texts: str, model: str = "words", alias: str = "") -> ClassifyResponse:
        return await self.service.Classify(ClassifyRequest(model=model, alias=alias, texts=texts))

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self.serving.close()
        self.pool.shutdown()


@dataclass
class World:
    folders: list[Path]
    cache: Path
    blobs: Blobs = field(default_factory=Blobs)
    bus: Bus = field(default_factory=Bus)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    replicas: list[Replica] = field(default_factory=list)

    def start(self, **settings: float) -> Replica:
        self.replicas.append(Replica(self, **settings))
        return self.replicas[-1]

    async def apply(self, model: str = "words", *aliases: str) -> None:
        self.registry.models[model] = list(aliases)
        await self.say(ModelApplied(model=model, number=1), model)

    async def register(self, folder: Path, model: str = "words") -> int:
        artifact = await artifacts.store(self.blobs, folder)
        return self.register_artifact(artifact, model)

    def register_artifact(self, artifact: Artifact, model: str = "words") -> int:
        number = sum(name == model for name, _ in self.registry.versions) + 1
        version = ModelVersion(model=model, version=number, run_id=f"run-{number}", artifact=artifact)
        version.lineage.snapshot_id = f"snapshot-{number}"
        self.registry.versions[model, number] = version
        return number

    async def promote(self, version: int, model: str = "words", alias: str = "champion") -> None:
        entries = self.registry.entries.setdefault((model, alias), [])
        entries.append(AliasEntry(model=model, alias=alias, number=len(entries) + 1, version=version))
        await self.say(AliasMoved(model=model, alias=alias, number=len(entries), version=version), model)

    async def say(self, fact: Any, key: str) -> None:
        if not self.bus.down:
            await self.bus.publish(to_message(fact, key, new_id(), "registry"))

    def predictor(self, number: int) -> Predictor:
        return load_artifact(self.folders[number], CATALOG)[1]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while True:
            found = condition()
            if await found if asyncio.iscoroutine(found) else found:
                return
            await asyncio.sleep(0.002)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Artifacts of three trainings that differ."""
    made = []
    for number, steps in enumerate((2, 20, 60)):
        run = LocalRun(tmp_path_factory.mktemp("run"))
        data = Data(train=rows(), validation=rows(70, seed=3))
        fit(Config(steps=steps, seed=number), data, run)
        write_golden(run.artifact, CATALOG, data.validation)
        made.append(run.artifact)
    return made


@pytest.fixture
async def world(folders: list[Path], tmp_path: Path) -> AsyncIterator[World]:
    made = World(folders, tmp_path / "cache")
    yield made
    for replica in made.replicas:
        await replica.stop()


def damaged(folder: Path, to: Path) -> Path:
    """The artifact with golden rows that its model does not reproduce."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    golden = json.loads((to / "golden.json").read_text())
    golden["predictions"][0]["confidence"] = 0.123
    (to / "golden.json").write_text(json.dumps(golden))
    return to


def metric(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"millrace_inference_{name}", labels)


async def test_serves_after_the_alias_moved(world: World) -> None:
    replica = await world.start().ready()
    await world.apply()
    await until(lambda: "words" in replica.serving.models())
    with pytest.raises(NotFound, match="no version under alias champion"):
        await replica.classify("a bright mill")
    version = await world.register(world.folders[2])
    await world.promote(version)
    await until(lambda: replica.version() == 1)
    answer = await replica.classify(*TEXTS)
    expected = predict(world.predictor(2), [{"text": text} for text in TEXTS])
    assert [(c.label, c.confidence, dict(c.scores)) for c in answer.classifications] == [
        (p["label"], p["confidence"], p["scores"]) for p in expected
    ]
    served = answer.served
    assert (served.model, served.version, served.alias) == ("words", 1, "champion")
    assert (served.run_id, served.snapshot_id) == ("run-1", "snapshot-1")
    assert (served.backend, served.precision) == ("python", "fp64")
    assert served.artifact_digest == artifacts.describe(world.folders[2]).digest
    assert answer.timing.prepare.ToNanoseconds() > 0 and answer.timing.infer.ToNanoseconds() > 0
    assert replica.health == {"model/words": True, "model/words/champion": True}
    assert metric("model_info", model="words", version="1", digest=served.artifact_digest) == 1
    listed = (await replica.service.ListServedModels(ListServedModelsRequest())).models
    assert [(m.served, list(m.tasks)) for m in listed] == [(served, ["classify"])]
    await until(lambda: any(m.topic == "millrace.inference.v1" for m in world.bus.log))
    fact: Any = from_message(next(m for m in world.bus.log if m.topic == "millrace.inference.v1")).fact
    assert (fact.model, fact.alias, fact.version) == ("words", "champion", 1)


async def test_swaps_under_constant_load_without_an_error_and_frees_the_old(world: World) -> None:
    numbers = [await world.register(folder) for folder in world.folders]
    await world.apply()
    await world.promote(numbers[0])
    replica = await world.start().ready()
    expected = {number: predict(world.predictor(number - 1), [{"text": text} for text in TEXTS]) for number in numbers}
    seen: set[int] = set()
    stop = asyncio.Event()

    async def caller(start: int) -> int:
        count = 0
        while not stop.is_set():
            some = [(start + count + i) % len(TEXTS) for i in range(1 + count % 5)]
            answer = await replica.classify(*(TEXTS[i] for i in some))
            version = int(answer.served.version)
            seen.add(version)
            for i, got in zip(some, answer.classifications, strict=True):
                assert got.confidence == expected[version][i]["confidence"], (version, i)
            count += 1
        return count

    callers = [asyncio.create_task(caller(i)) for i in range(8)]
    old: list[weakref.ref[Any]] = []
    for version in [2, 3, 1, 3, 2, 1, 2, 3]:
        old.append(weakref.ref(replica.serving.loaded("words")["champion"].predictor))
        await world.promote(version)
        await until(lambda version=version: replica.version() == version)
        await asyncio.sleep(0.01)
    stop.set()
    assert sum(await asyncio.gather(*callers)) > 50
    assert seen == {1, 2, 3}
    await replica.serving.released()
    gc.collect()
    assert [ref() for ref in old] == [None] * len(old)
    digest = artifacts.describe(world.folders[0]).digest
    assert metric("model_info", model="words", version="1", digest=digest) is None


async def test_a_request_in_flight_finishes_on_the_version_it_started_on(world: World) -> None:
    numbers = [await world.register(folder) for folder in world.folders[:2]]
    await world.apply()
    await world.promote(numbers[0])
    replica = await world.start().ready()
    version = replica.serving.loaded("words")["champion"]
    release = asyncio.Event()
    original = version.batcher._in_thread

    async def held(pool: Any, work: Any) -> Any:
        await release.wait()
        return await original(pool, work)

    version.batcher._in_thread = held  # type: ignore[method-assign]
    asked = asyncio.create_task(replica.classify("a bright mill"))
    await until(lambda: version.batcher.in_flight == 1)
    await world.promote(numbers[1])
    await until(lambda: replica.version() == 2)
    assert (await replica.classify("a bright mill")).served.version == 2
    assert not asked.done()
    release.set()
    assert (await asked).served.version == 1


async def test_a_version_that_misses_its_golden_rows_is_refused_and_the_old_one_goes_on(
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
    await replica.work.look()
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


async def test_a_copy_that_was_damaged_in_the_cache_is_fetched_anew(world: World) -> None:
    await world.register(world.folders[2])
    digest = artifacts.describe(world.folders[2]).digest
    folder = await artifacts.fetch(world.blobs, digest, world.cache)
    (folder / "model.json").write_text("{}")
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1 and artifacts.describe(folder).digest == digest


async def dead_attempt(world: World, version: int = 1) -> None:
    """What a process leaves behind that died while it loaded the version."""
    claim = Claim(process=this_process())
    claim.process.pid, claim.process.start_time = 2**22 + 1, 1
    await world.blobs.put(f"refusals/words/{version:010d}/attempts/{new_id()}", claim.SerializeToString())


async def test_a_version_that_killed_three_processes_is_refused(world: World) -> None:
    await world.register(world.folders[1])
    for _ in range(3):
        await dead_attempt(world)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="3 processes died"):
        await replica.classify("a bright mill")


async def test_two_deaths_are_forgiven_by_a_load_that_succeeds(world: World) -> None:
    await world.register(world.folders[1])
    for _ in range(2):
        await dead_attempt(world)
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    assert replica.version() == 1
    assert not [key for key in world.blobs._keys if "/attempts/" in key]


async def test_loads_of_living_processes_count_for_nothing(world: World) -> None:
    sleeper = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        claim = Claim(process=this_process())
        claim.process.pid = sleeper.pid
        stat = Path(f"/proc/{sleeper.pid}/stat").read_text()
        claim.process.start_time = int(stat[stat.rindex(")") + 2 :].split()[19])
        for _ in range(3):
            await world.blobs.put(f"refusals/words/0000000001/attempts/{new_id()}", claim.SerializeToString())
        await world.register(world.folders[1])
        await world.apply()
        await world.promote(1)
        replica = await world.start().ready()
        assert replica.version() == 1
    finally:
        await sleeper.communicate(b"\n")


async def test_answers_and_stays_ready_with_everything_else_down(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    replica = await world.start(look_seconds=0.02).ready()
    world.registry.down = world.blobs.down = world.bus.down = True
    await asyncio.sleep(0.1)
    assert await replica.is_ready()
    assert (await replica.classify(*TEXTS)).served.version == 1
    # A version that cannot be fetched now is served once it can be.
    world.registry.down = False
    world.registry.entries["words", "champion"].append(AliasEntry(model="words", alias="champion", number=2, version=2))
    world.blobs.down = False
    await world.register(world.folders[1])
    world.blobs.down = True
    await asyncio.sleep(0.1)
    assert (await replica.classify(*TEXTS)).served.version == 1 and await replica.is_ready()
    world.blobs.down = False
    await until(lambda: replica.version() == 2)


async def test_is_not_ready_before_it_has_read_the_registry_and_loaded_what_it_names(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    world.registry.down = True
    replica = world.start()
    await asyncio.sleep(0.05)
    assert not await replica.is_ready()
    with pytest.raises(Unavailable, match="not read from the registry yet"):
        await replica.classify("a bright mill")
    world.registry.down, world.blobs.down = False, True
    await asyncio.sleep(0.3)
    assert not await replica.is_ready()
    with pytest.raises(Unavailable, match="try again"):
        await replica.classify("a bright mill")
    world.blobs.down = False
    await replica.ready()
    assert replica.version() == 1


async def test_starts_on_a_registry_without_models(world: World) -> None:
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="there are: none yet"):
        await replica.classify("a bright mill")


async def test_an_alias_that_is_no_longer_served_is_unloaded(world: World) -> None:
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply("words", "champion", "next")
    await world.promote(1)
    await world.promote(2, alias="next")
    replica = await world.start().ready()
    assert (await replica.classify("a mill", alias="next")).served.version == 2
    digest = artifacts.describe(world.folders[1]).digest
    await world.apply("words")
    await until(lambda: "next" not in replica.serving.loaded("words"))
    with pytest.raises(NotFound, match="not served by alias 'next' but by champion"):
        await replica.classify("a mill", alias="next")
    await until(lambda: replica.health["model/words/next"] is False)
    assert metric("model_info", model="words", version="2", digest=digest) is None
    del world.registry.models["words"]
    await world.say(ModelApplied(model="words", number=2), "words")
    await until(lambda: not replica.serving.models())
    await until(lambda: replica.health["model/words"] is False)
    await replica.serving.released()


async def test_two_aliases_of_one_version_share_it(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply("words", "champion", "stable")
    await world.promote(1)
    await world.promote(1, alias="stable")
    replica = await world.start().ready()
    loaded = replica.serving.loaded("words")
    assert loaded["champion"] is loaded["stable"]
    assert (await replica.classify("a mill", alias="stable")).served.alias == "stable"
    await world.promote(0, alias="stable")
    await until(lambda: replica.version(alias="stable") == 0)
    assert (await replica.classify("a mill")).served.version == 1


async def test_an_alias_entry_older_than_one_already_seen_is_ignored(world: World) -> None:
    for folder in world.folders[:2]:
        await world.register(folder)
    await world.apply()
    await world.promote(1)
    await world.promote(2)
    replica = await world.start().ready()
    assert replica.version() == 2
    world.registry.answers_late = world.registry.entries["words", "champion"][0]
    await replica.work.look()
    await until(lambda: not replica.work._states)
    assert replica.version() == 2


async def test_two_replicas_may_share_a_cache(world: World) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    first, second = world.start(), world.start()
    await first.ready()
    await second.ready()
    assert first.version() == second.version() == 1
    assert [path.name for path in world.cache.iterdir()] == [artifacts.describe(world.folders[2]).digest]


def test_the_cache_keeps_what_anybody_serves_or_has_served_lately(tmp_path: Path) -> None:
    for name in ("mine", "others", "old", ".fetching-x"):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / "others")
    assert sorted(prune(tmp_path, {"mine"}, 60)) == [".fetching-x", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "others"]
    assert prune(tmp_path, set(), 60) == []


async def test_an_artifact_that_is_nowhere_ends_in_a_refusal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("servicekit.work.PATIENCE", {NotFound: 2})
    world.register_artifact(Artifact(digest="0" * 32))
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="no object artifacts/"):
        await replica.classify("a bright mill")


@pytest.mark.parametrize(
    ("request_", "field_", "text"),
    [
        (ClassifyRequest(texts=["a"]), "model", "model is empty"),
        (ClassifyRequest(model="Not A Name", texts=["a"]), "model", "lower-case"),
        (ClassifyRequest(model="words"), "texts", "texts is empty"),
        (ClassifyRequest(model="words", texts=["a"] * 1025), "texts", "at most 1024"),
        (ClassifyRequest(model="words", texts=["a", ""]), "texts[1]", "at least 1 character"),
    ],
)
async def test_a_refusal_names_the_field(world: World, request_: ClassifyRequest, field_: str, text: str) -> None:
    await world.register(world.folders[2])
    await world.apply()
    await world.promote(1)
    replica = await world.start().ready()
    with pytest.raises(InvalidArgument, match=text) as refused:
        await replica.service.Classify(request_)
    assert refused.value.field == field_


async def test_an_unknown_model_is_told_which_there_are(world: World) -> None:
    await world.apply("words")
    await world.apply("books")
    replica = await world.start().ready()
    with pytest.raises(NotFound, match="there are: books, words"):
        await replica.classify("a mill", model="birds")


def test_importing_the_service_brings_no_heavy_library() -> None:
    heavy = "{'torch', 'numpy', 'sklearn', 'matplotlib', 'jinja2', 'transformers'}"
    script = f"import sys, services.inference.__main__; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(autouse=True)
def no_error_of_work_is_a_bug(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if "bug" in record.getMessage()]
