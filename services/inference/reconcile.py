"""Serves what the registry names."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from millstream.aliases import served_aliases
from millstream.client.aio.pages import pages
from millstream.errors import DataLoss, DeadlineExceeded, InvalidArgument, MillstreamError, NotFound, Unavailable
from millstream.inference.v1.events_pb2 import VersionServed
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.registry.v1.registry_service_pb2 import (
    GetAliasRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListAliasEntriesRequest,
    ListModelsRequest,
)
from servicekit.bus.port import Bus
from servicekit.facts.events import to_message
from servicekit.ids import new_id
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from servicekit.work.resync import LOOK_AGAIN_SECONDS
from services.inference import metrics
from services.inference.store import Store
from services.inference.versions.failures import LoadFailures
from services.inference.versions.loader import FailedHere, Loader, Rejected
from services.inference.versions.serving import LoadedVersion, Problem, Serving, UnavailableSlot

if TYPE_CHECKING:
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

log = logging.getLogger(__name__)
FALLBACKS = 3
SetHealth = Callable[[str, bool], Awaitable[None]]


@dataclass(frozen=True)
class ModelKey(Key):
    """The versions that serve the aliases of one model."""

    kind = "model"
    model: str


class ServeModel(Reconciler[ModelKey]):
    """Every alias in a model's serving.aliases is served by the version that it names."""

    kind = ModelKey.kind

    def __init__(
        self,
        registry: "RegistryServiceAsyncStub",
        store: Store,
        loader: Loader,
        serving: Serving,
        bus: Bus,
        set_health: SetHealth,
        failures: LoadFailures | None = None,
    ) -> None:
        self.registry, self.store, self.loader, self.serving = registry, store, loader, serving
        self.bus, self.set_health = bus, set_health
        self._numbers: dict[tuple[str, str], int] = {}
        """The highest ledger number seen of each alias; of a model's spec under the alias ""."""
        self._failures = failures or LoadFailures()
        self._publishing: set[asyncio.Task[None]] = set()

    @override
    async def pending(self) -> AsyncIterator[ModelKey]:
        # Models that are served here but no longer in the registry are to be removed.
        listed, as_listed = list[str](), set[str]()
        async for page in pages(self.registry.ListModels, ListModelsRequest(page_size=1000)):
            listed += [model.name for model in page.models]
            as_listed |= {model.name for model in page.models if self._serves(model)}
        self.serving.listed(listed)
        for name in sorted({*listed, *self.serving.models()} - as_listed):
            yield ModelKey(name)

    @override
    async def reconcile(self, key: ModelKey) -> float | None:
        name = key.model
        try:
            model = (await self.registry.GetModel(GetModelRequest(model=name))).model
        except NotFound:
            await self._remove(name)
            return None
        except DataLoss as error:
            self.serving.set_unreadable(name, error.text)
            await self.set_health(f"model/{name}", bool(self.serving.loaded(name)))
            self.serving.settled(name)
            raise
        self.serving.set_unreadable(name, "")
        self._check_not_old(name, "", int(model.etag or 0))
        aliases, newest = served_aliases(model.spec), {entry.alias: entry for entry in model.aliases}
        errors: list[Exception] = []
        failed_here: set[int] = set()
        problems = 0
        for alias in aliases:
            try:
                problems += not await self._serve(name, alias, newest.get(alias), failed_here)
            except Exception as error:
                errors.append(error)
                if isinstance(error, DataLoss):
                    await self._damaged(name, alias, error)
        metrics.REFUSED_ALIASES.labels(name).set(problems)
        await self._not_served(name, self.serving.keep_only(name, aliases))
        await self.set_health(f"model/{name}", bool(self.serving.loaded(name)))
        if self.loader.is_stuck:
            await self.set_health("liveness", False)
        if not any(isinstance(error, Unavailable | DeadlineExceeded) for error in errors):
            # Tried once: what one model lacks keeps no other from its callers. An outage of the registry or the store does,
            # so that no rollout replaces replicas that serve by replicas that cannot.
            self.serving.settled(name)
        if errors:
            raise errors[0]
        self._failures.keep_only(name, failed_here)
        if problems:  # another replica may be told to retry the version
            return min(LOOK_AGAIN_SECONDS, self._failures.pause(name) or LOOK_AGAIN_SECONDS)
        return self._failures.pause(name)

    @override
    async def end(self, key: ModelKey, error: MillstreamError) -> bool:
        # An error of the registry, or a bug: it says nothing about a version. It is tried again, unless no model is meant.
        self.serving.settled(key.model)
        return isinstance(error, InvalidArgument)

    def _serves(self, listed: Model) -> bool:
        """Whether each alias of a model is served by the version that a listing names, so that nothing is left to do."""
        versions = {entry.alias: entry.version for entry in listed.aliases if not entry.problem}
        aliases = {alias: versions.get(alias) for alias in served_aliases(listed.spec)}
        return not listed.problem and self.serving.serves(listed.name, aliases)

    async def _serve(self, model: str, alias: str, listed: AliasEntry | None, failed_here: set[int]) -> bool:
        """Serve an alias by the version that it names. False: it cannot be, and the one before goes on serving.

        Adds the versions that only this replica could not load to `failed_here`. Raises DataLoss for a damaged object.
        """
        entry = await self._newest(model, alias, listed)
        if not entry.version:
            text = f"model {model} has no version under alias {alias} yet: train one, and promote it when its report passed"
            self.serving.put(model, alias, UnavailableSlot(NotFound, text))
            await self.set_health(f"model/{model}/{alias}", False)
            return True
        problem = await self._serve_version(model, alias, entry.version, failed_here)
        await self.set_health(f"model/{model}/{alias}", not problem)
        if (
            problem
            and alias not in self.serving.loaded(model)
            and not await self._fall_back(model, alias, entry, failed_here)
        ):
            self.serving.put(model, alias, _unavailable(model, alias, problem))
        self.serving.set_problem(model, alias, problem)
        return not problem

    async def _damaged(self, model: str, alias: str, error: DataLoss) -> None:
        """Note a damaged object of an alias. What is loaded stays; else its callers learn which object is to be restored."""
        await self.set_health(f"model/{model}/{alias}", False)
        if alias not in self.serving.loaded(model):
            text = f"alias {alias} of model {model} is not served: {error.text}"
            self.serving.put(model, alias, UnavailableSlot(DataLoss, text))
        self.serving.set_problem(model, alias, Problem(0, error.text))

    async def _newest(self, model: str, alias: str, listed: AliasEntry | None) -> AliasEntry:
        """The alias's newest entry, of version 0 where there is none: asked for unless it came with the model.

        Raises Unavailable for an older one, and DataLoss for one that is damaged.
        """
        entry = listed
        if entry is None:
            try:
                entry = (await self.registry.GetAlias(GetAliasRequest(model=model, alias=alias))).entry
            except NotFound:
                entry = AliasEntry(model=model, alias=alias)
        if entry.problem:
            raise DataLoss(entry.problem)
        self._check_not_old(model, alias, entry.number)
        return entry

    async def _fall_back(self, model: str, alias: str, newest: AliasEntry, failed_here: set[int]) -> bool:
        """Serve the newest earlier version that can be, as the replicas that ran before still do.

        Ends after FALLBACKS versions that this replica cannot load: what it lacks, it lacks for the others, too.
        """
        entries: list[AliasEntry] = []
        request = ListAliasEntriesRequest(model=model, alias=alias, page_size=1000)
        async for page in pages(self.registry.ListAliasEntries, request):
            entries += page.entries
        earlier = [e for e in entries if e.number < newest.number and e.version not in (0, newest.version)]
        failed = 0
        for version in dict.fromkeys(entry.version for entry in sorted(earlier, key=lambda entry: -entry.number)):
            try:
                problem = await self._serve_version(model, alias, version, failed_here)
            except DataLoss:
                continue  # the newest has a problem of its own to report, and an older version may be whole
            if not problem:
                return True
            failed += not problem.refused
            if failed == FALLBACKS:
                return False
        return False

    async def _serve_version(self, model: str, alias: str, number: int, failed_here: set[int]) -> Problem | None:
        """Serve the alias by this version, loading it if needed; returns why it cannot, None when it does."""
        loaded = self.serving.loaded(model)
        if alias in loaded and loaded[alias].source.version == number:
            return None
        for version in loaded.values():
            if version.source.version == number:
                self._swap(alias, version)
                return None
        if refusal := await self.store.refusal(model, number):
            return Problem(number, refusal.reason, refused=True)
        lifts = await self.store.lifts(model, number)
        if (failure := self._failures.get(model, number)) and not self._failures.is_due(failure, lifts):
            failed_here.add(number)
            return Problem(number, failure.reason)
        if alias not in loaded:
            self.serving.put(
                model,
                alias,
                UnavailableSlot(Unavailable, f"version {number} of model {model} is being loaded: try again"),
            )
        return await self._load(model, alias, number, lifts, failed_here)

    async def _load(self, model: str, alias: str, number: int, lifts: int, failed_here: set[int]) -> Problem | None:
        request = GetModelVersionRequest(model=model, version=number)
        version = (await self.registry.GetModelVersion(request)).model_version
        try:
            loaded = await self.loader.load(version)
        except Rejected as error:
            return Problem(number, await self._refuse(version, str(error)), refused=True)
        except FailedHere as error:
            log.warning("version not loaded here", extra={"model": model, "version": number, "reason": str(error)})
            metrics.LOADS.labels(model, "failed").inc()
            self._failures.add(model, number, str(error), lifts)
            failed_here.add(number)
            return Problem(number, str(error))
        except Exception:
            metrics.LOADS.labels(model, "failed").inc()
            raise
        metrics.LOADS.labels(model, "loaded").inc()
        self._swap(alias, loaded)
        return None

    async def _refuse(self, version: ModelVersion, reason: str) -> str:
        refusal = await self.store.refuse(version.model, version.version, version.artifact.digest, reason)
        log.warning("version refused", extra={"model": version.model, "version": version.version, "reason": reason})
        metrics.LOADS.labels(version.model, "refused").inc()
        return refusal.reason

    def _swap(self, alias: str, version: LoadedVersion) -> None:
        source = version.source
        self.serving.put(source.model, alias, version)
        log.info("version served", extra={"model": source.model, "alias": alias, "version": source.version})
        fact = VersionServed(
            model=source.model, alias=alias, version=source.version, artifact_digest=source.artifact.digest
        )
        task = asyncio.create_task(self._publish(fact))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _publish(self, fact: VersionServed) -> None:
        """At most once, without the outbox: no work depends on this event."""
        with suppress(MillstreamError, TimeoutError):
            async with asyncio.timeout(5):
                await self.bus.publish(to_message(fact, fact.model, new_id(), "inference"))

    async def _remove(self, model: str) -> None:
        if aliases := self.serving.drop(model):
            await self._not_served(model, aliases)
            await self.set_health(f"model/{model}", False)
            metrics.REFUSED_ALIASES.labels(model).set(0)
        self.serving.settled(model)

    async def _not_served(self, model: str, aliases: Sequence[str]) -> None:
        for alias in aliases:
            await self.set_health(f"model/{model}/{alias}", False)

    def _check_not_old(self, model: str, alias: str, number: int) -> None:
        """Raise Unavailable, so that it is asked again, when the registry answered with an older state than before."""
        known = self._numbers.get((model, alias), 0)
        if number < known:
            raise Unavailable(f"the registry answered for {model} with entry {number}, and before with {known}")
        self._numbers[model, alias] = number


def _unavailable(model: str, alias: str, problem: Problem) -> UnavailableSlot:
    text = f"version {problem.version} of model {model}, named by alias {alias}, is not served"
    if problem.refused:
        return UnavailableSlot(NotFound, f"{text}: {problem.reason}. Another version can be promoted instead")
    return UnavailableSlot(Unavailable, f"{text} by this replica: {problem.reason}")
