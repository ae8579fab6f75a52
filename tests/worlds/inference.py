"""A world for inference: a registry of dicts, blobs and bus that can be down, and replicas of the service."""

import asyncio
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from millstream.errors import DataLoss, NotFound, Unavailable
from millstream.inference.v1.inference_service_pb2 import ClassifyRequest, ClassifyResponse
from millstream.operations.v1.stored_pb2 import Claim
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.registry.v1.registry_service_pb2 import (
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
from millstream.training.v1.training_run_pb2 import Artifact
from recipekit.catalog import Catalog
from recipekit.predictor import Predictor, load_artifact, write_golden
from recipekit.run import Data, LocalRun
from servicekit.blobs import artifacts
from servicekit.facts.events import to_message
from servicekit.ids import new_id
from servicekit.processes import this_process
from servicekit.work.queue import Reconciler, Work
from services.inference.doors.native import InferenceService
from services.inference.engine.queue import Limits
from services.inference.handlers import HANDLERS
from services.inference.predictions import Predictions
from services.inference.pruning import PruneCache
from services.inference.reconcile import ServeModel
from services.inference.retries import Retries
from services.inference.store import Store
from services.inference.versions.failures import LoadFailures
from services.inference.versions.loader import Loader
from services.inference.versions.serving import Serving
from tests.recipes.toy_words.sample import rows
from tests.recipes.toy_words.spec import Config
from tests.recipes.toy_words.train import fit
from tests.worlds.away import Blobs, Bus
from tests.worlds.waiting import until

CATALOG = Catalog(("tests.recipes",))


@dataclass
class FakeRegistry:
    """The registry's RPCs; `down` makes them unavailable, `damaged` names objects that cannot be read."""

    models: dict[str, list[str]] = field(default_factory=dict)
    entries: dict[tuple[str, str], list[AliasEntry]] = field(default_factory=dict)
    versions: dict[tuple[str, int], ModelVersion] = field(default_factory=dict)
    down: bool = False
    asked_in_vain: int = 0
    damaged: set[str] = field(default_factory=set)
    stale_entry: AliasEntry | None = None
    shows_aliases: bool = True
    """False: as registries did before Model.aliases."""
    asked: Counter[str] = field(default_factory=Counter)
    """By RPC."""

    def _check(self, key: str = "") -> None:
        if self.down:
            self.asked_in_vain += 1
            raise Unavailable("the registry is down")
        if key in self.damaged:
            raise DataLoss(f"{key} is damaged")

    def _model(self, name: str) -> Model:
        if name not in self.models:
            raise NotFound(f"no model {name}")
        model = Model(name=name, etag="1")
        model.spec.model = name
        model.spec.serving.aliases.extend(self.models[name])
        if self.shows_aliases:
            aliases = dict.fromkeys(("champion", *self.models[name]))
            model.aliases.extend(self._newest(name, alias) for alias in aliases)
        return model

    def _newest(self, model: str, alias: str) -> AliasEntry:
        if f"alias/{model}" in self.damaged:
            return AliasEntry(model=model, alias=alias, number=1, problem=f"alias/{model} is damaged")
        if self.stale_entry:
            return self.stale_entry
        entries = self.entries.get((model, alias))
        return entries[-1] if entries else AliasEntry(model=model, alias=alias)

    async def ListModels(self, request: ListModelsRequest) -> ListModelsResponse:
        self._check()
        return ListModelsResponse(
            models=[
                Model(name=name, problem="its spec is damaged") if f"spec/{name}" in self.damaged else self._model(name)
                for name in sorted(self.models)
            ]
        )

    async def GetModel(self, request: GetModelRequest) -> GetModelResponse:
        self.asked["GetModel"] += 1
        self._check(f"spec/{request.model}")
        return GetModelResponse(model=self._model(request.model))

    async def GetAlias(self, request: GetAliasRequest) -> GetAliasResponse:
        self.asked["GetAlias"] += 1
        self._check(f"alias/{request.model}")
        entry = self._newest(request.model, request.alias)
        if not entry.number:
            raise NotFound("no entry")
        return GetAliasResponse(entry=entry)

    async def ListAliasEntries(self, request: ListAliasEntriesRequest) -> ListAliasEntriesResponse:
        self._check()
        return ListAliasEntriesResponse(entries=self.entries.get((request.model, request.alias), [])[::-1])

    async def GetModelVersion(self, request: GetModelVersionRequest) -> GetModelVersionResponse:
        self._check(f"version/{request.model}/{request.version}")
        if (request.model, request.version) not in self.versions:
            raise NotFound("no version")
        return GetModelVersionResponse(model_version=self.versions[request.model, request.version])


class Replica:
    """One inference process without its sockets."""

    def __init__(self, world: "World", full_resync_seconds: float = 1000.0, load_limit_seconds: float = 600.0) -> None:
        self.serving, self.health = Serving(), dict[str, bool]()
        self.pool = ThreadPoolExecutor(2)
        self.store = Store(world.blobs, load_limit_seconds)
        self.time = 0.0
        """The clock by which loads that failed here are tried again; a test moves it."""
        self.loader = Loader(world.blobs, self.store, CATALOG, world.cache, Limits(), self.pool)
        registry: Any = world.registry
        models = ServeModel(
            registry,
            self.store,
            self.loader,
            self.serving,
            world.bus,
            self._set_health,
            LoadFailures(lambda: self.time),
        )
        pruning = PruneCache(self.loader.cache, self.serving, 3600)
        reconcilers: list[Reconciler] = [models, pruning]
        self.work = Work(
            world.blobs,
            world.bus,
            "inference",
            HANDLERS,
            reconcilers,
            resync_seconds=1000.0,
            full_resync_seconds=full_resync_seconds,
            broadcast=True,
        )
        self.service = InferenceService(
            Predictions(self.serving), Retries(registry, self.store, self.serving, self.work)
        )
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

    async def resynced(self) -> None:
        """Resync in full, and wait until all that was found was looked at."""
        await self.work.resync()
        await until(lambda: not any(state.running or state.queued for state in self.work._states.values()))

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
        await self.publish(ModelApplied(model=model, number=1), model)

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
        await self.publish(AliasMoved(model=model, alias=alias, number=len(entries), version=version), model)

    async def publish(self, fact: Any, key: str) -> None:
        if not self.bus.down:
            await self.bus.publish(to_message(fact, key, new_id(), "registry"))

    def predictor(self, number: int) -> Predictor:
        return load_artifact(self.folders[number], CATALOG)[1]


def trained(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Artifacts of three trainings that differ."""
    made = []
    for number, steps in enumerate((2, 20, 60)):
        run = LocalRun(tmp_path_factory.mktemp("run"))
        data = Data(train=rows(), validation=rows(70, seed=3))
        fit(Config(steps=steps, seed=number), data, run)
        write_golden(run.artifact, CATALOG, data.validation)
        made.append(run.artifact)
    return made


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
    return REGISTRY.get_sample_value(f"millstream_inference_{name}", labels)


async def dead_attempt(
    world: World, version: int = 1, *, in_a_row: int = 1, host: str = "", namespace: str = ""
) -> None:
    """The load attempt that a process leaves behind when it dies while it loads the version.

    With a namespace it ran in another container, from which nobody here can see whether it still runs.
    """
    claim = Claim(number=in_a_row, process=this_process())
    claim.process.pid, claim.process.start_time = 2**22 + 1, 1
    claim.process.host = host or claim.process.host
    claim.process.pid_namespace = namespace or claim.process.pid_namespace
    await world.blobs.put(f"refusals/words/{version:010d}/attempts/{new_id()}", claim.SerializeToString())
