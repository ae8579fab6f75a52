"""What this replica serves now: for each model and alias a loaded version, or why there is none."""

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from millstream.errors import DataLoss, MillstreamError, NotFound, Unavailable
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.predictor import Predictor
from recipekit.spec import Row, Spec
from services.inference import metrics
from services.inference.engine.batcher import Batcher

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedVersion:
    """What a prediction came from: every answer names it."""

    model: str
    version: int
    alias: str
    """The alias that chose the version."""
    artifact_digest: str
    run_id: str
    snapshot_id: str
    backend: str
    precision: str


@dataclass(eq=False)
class LoadedVersion:
    """A model version in memory. A request that it began is answered by it, also when it is replaced meanwhile."""

    source: ModelVersion
    spec: Spec
    predictor: Predictor
    batcher: Batcher
    labels: Sequence[str] = ()
    """The labels that it can predict; () where its predictions are not classes."""
    clean: Callable[[Row], dict[str, Any]] = dict
    """Cleans a row as those were cleaned that it was trained on."""

    def served(self, alias: str) -> ServedVersion:
        """How an answer to a request by this alias names the version."""
        return ServedVersion(
            model=self.source.model,
            version=self.source.version,
            alias=alias,
            artifact_digest=self.source.artifact.digest,
            run_id=self.source.run_id,
            snapshot_id=self.source.lineage.snapshot_id,
            backend=self.predictor.backend,
            precision=self.predictor.precision,
        )

    def show(self, shown: bool) -> None:
        """Add it to the metric of served versions, or remove it."""
        labels = (self.source.model, str(self.source.version), self.source.artifact.digest)
        if shown:
            metrics.MODEL_INFO.labels(*labels).set(1)
        else:
            with suppress(KeyError):
                metrics.MODEL_INFO.remove(*labels)


@dataclass(frozen=True)
class UnavailableSlot:
    """Why an alias has no version to serve."""

    kind: type[MillstreamError]
    text: str


@dataclass(frozen=True)
class Problem:
    """Why an alias is not served by the version that it names."""

    version: int
    reason: str
    refused: bool = False
    """True: by every replica. False: this one cannot load it."""


class Serving:
    """The loaded versions by model and alias. A version is unloaded once no alias names it and its requests are done."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, LoadedVersion | UnavailableSlot]] = {}
        self._problems: dict[tuple[str, str], Problem] = {}
        self._unreadable: dict[str, str] = {}
        """By model, why its spec cannot be read, so that nobody knows which aliases it serves."""
        self._first: frozenset[str] | None = None
        """The models of the first listing; None before it."""
        self._settled: set[str] = set()
        self._unloading: set[asyncio.Task[None]] = set()

    async def ready(self) -> None:
        """Raise Unavailable until every model of the first listing was tried once; never after that."""
        if self._first is None:
            raise Unavailable("inference has not read the registry yet: is it reachable?")
        if unread := self._first - self._settled:
            raise Unavailable(f"still to be loaded: {', '.join(sorted(unread))}")

    def listed(self, models: Sequence[str]) -> None:
        """Record the models of the registry's first listing."""
        if self._first is None:
            self._first = frozenset(models)

    def settled(self, model: str) -> None:
        """Record that a model was tried: loaded, refused, found empty, or failing for a trouble of its own."""
        self._settled.add(model)

    def find(self, model: str, alias: str) -> LoadedVersion:
        """The version of an alias. Raises NotFound or DataLoss with the reason, or Unavailable while its first one loads."""
        aliases = self._models.get(model)
        if (unreadable := self._unreadable.get(model)) and alias not in (aliases or ()):
            raise DataLoss(f"alias {alias} of model {model} is not served: {unreadable}", model=model, alias=alias)
        if aliases is None:
            if self._first is None or model in self._first - self._settled:
                raise Unavailable(f"model {model} was not read from the registry yet: try again", retry_after=1.0)
            known = ", ".join(sorted(self._models)) or "none yet"
            raise NotFound(
                f"no model is named {model!r}; there are: {known}; declare it with `millstream apply MODEL -d DATASET`",
                model=model,
            )
        slot = aliases.get(alias)
        if slot is None:
            raise NotFound(
                f"model {model} is not served by alias {alias!r} but by {', '.join(sorted(aliases))}: "
                "name one of these, or add it to serving.aliases of the model",
                model=model,
                alias=alias,
            )
        if isinstance(slot, UnavailableSlot):
            retry_after = 1.0 if issubclass(slot.kind, Unavailable) else 0.0
            raise slot.kind(slot.text, retry_after=retry_after, model=model, alias=alias)
        return slot

    def models(self) -> list[str]:
        """Names of the models with an alias here, loaded or not, sorted."""
        return sorted(self._models)

    def loaded(self, model: str) -> Mapping[str, LoadedVersion]:
        """The versions of a model by their alias."""
        slots = self._models.get(model, {})
        return {alias: slot for alias, slot in slots.items() if isinstance(slot, LoadedVersion)}

    def serves(self, model: str, aliases: Mapping[str, int | None]) -> bool:
        """Whether just these aliases of a model are served by these versions, 0 being none, and without a problem."""
        slots = self._models.get(model, {})
        served = {a: slot.source.version if isinstance(slot, LoadedVersion) else 0 for a, slot in slots.items()}
        has_problem = model in self._unreadable or any((model, alias) in self._problems for alias in aliases)
        return served == aliases and not has_problem

    def all(self) -> list[tuple[str, LoadedVersion]]:
        """(alias, version) of all models, sorted by model and alias."""
        return [slot for model in self.models() for slot in sorted(self.loaded(model).items())]

    def problems(self) -> list[tuple[str, str, Problem]]:
        """(model, alias, why it is not served by the version that it names), sorted; alias "": all of the model."""
        found = {(model, ""): Problem(0, text) for model, text in self._unreadable.items()} | self._problems
        return [(model, alias, found[model, alias]) for model, alias in sorted(found)]

    def set_unreadable(self, model: str, reason: str) -> None:
        """Note why the model's spec cannot be read, so that what is loaded stays; "": it can."""
        self._unreadable.pop(model, None)
        if reason:
            self._unreadable[model] = reason

    def set_problem(self, model: str, alias: str, problem: Problem | None) -> None:
        """Note why the alias is not served by the version that it names; None: it is."""
        self._problems.pop((model, alias), None)
        if problem:
            self._problems[model, alias] = problem

    def digests(self) -> set[str]:
        """Digests of the artifacts that are loaded."""
        return {version.source.artifact.digest for model in self._models for version in self.loaded(model).values()}

    def put(self, model: str, alias: str, slot: LoadedVersion | UnavailableSlot) -> None:
        """Serve an alias by this slot from now on, and release the one before."""
        before = self._models.setdefault(model, {}).get(alias)
        self._models[model][alias] = slot
        if isinstance(slot, LoadedVersion):
            slot.show(True)
        self._release(model, before)

    def keep_only(self, model: str, aliases: Sequence[str]) -> list[str]:
        """Remove every other alias of the model; returns those that were removed."""
        taken = sorted(set(self._models.get(model, {})) - set(aliases))
        for alias in taken:
            self.set_problem(model, alias, None)
            self._release(model, self._models[model].pop(alias))
        return taken

    def drop(self, model: str) -> list[str]:
        """Remove a model; returns the aliases that it had."""
        taken = self.keep_only(model, ())
        self.set_unreadable(model, "")
        self._models.pop(model, None)
        return taken

    async def close(self) -> None:
        """Remove everything and wait until it is out of memory."""
        for model in self.models():
            self.drop(model)
        await self.released()

    async def released(self) -> None:
        """Wait until all that was replaced is out of memory."""
        await asyncio.gather(*self._unloading)

    def _release(self, model: str, slot: LoadedVersion | UnavailableSlot | None) -> None:
        if not isinstance(slot, LoadedVersion) or slot in self.loaded(model).values():
            return
        slot.show(False)
        task = asyncio.create_task(_unload(slot))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)


async def _unload(version: LoadedVersion) -> None:
    await version.batcher.close()
    log.info("version unloaded", extra={"model": version.source.model, "version": version.source.version})
    del version
    await asyncio.to_thread(gc.collect)
