"""Serves what the registry names, and prunes the cache of artifacts that are not served."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typing_extensions import override

from millstream.client.aio.pages import pages
from millstream.defaults import CHAMPION
from millstream.errors import MillstreamError, NotFound, Unavailable
from millstream.inference.v1.events_pb2 import VersionServed
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.registry.v1.registry_service_pb2 import (
    GetAliasRequest,
    GetModelRequest,
    GetModelVersionRequest,
    ListAliasEntriesRequest,
    ListModelsRequest,
)
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.bus.port import Bus
from servicekit.facts.events import to_message
from servicekit.ids import new_id
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from services.inference import metrics
from services.inference.store import Store
from services.inference.versions.loader import Loader, MissingRecipe, Rejected
from services.inference.versions.serving import LoadedVersion, Serving, UnavailableSlot

if TYPE_CHECKING:
    from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceAsyncStub

log = logging.getLogger(__name__)
SetHealth = Callable[[str, bool], Awaitable[None]]


@dataclass(frozen=True)
class ModelKey(Key):
    """The versions that serve the aliases of one model."""

    kind = "model"
    model: str


@dataclass(frozen=True)
class CacheKey(Key):
    """The cache of artifacts on this machine."""

    kind = "cache"


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
    ) -> None:
        self.registry, self.store, self.loader, self.serving = registry, store, loader, serving
        self.bus, self.set_health = bus, set_health
        self._numbers: dict[tuple[str, str], int] = {}
        """The highest ledger number seen of each alias; of a model's spec under the alias ""."""
        self._failed: dict[str, ModelVersion] = {}
        """The version that a model's last attempt could not load."""
        self._publishing: set[asyncio.Task[None]] = set()

    @override
    async def pending(self) -> AsyncIterator[ModelKey]:
        # Models that are served here but no longer in the registry are to be removed.
        names: list[str] = []
        async for page in pages(self.registry.ListModels, ListModelsRequest(page_size=1000)):
            names += [model.name for model in page.models]
        self.serving.listed(names)
        for name in sorted({*names, *self.serving.models()}):
            yield ModelKey(name)

    @override
    async def reconcile(self, key: ModelKey) -> None:
        name = key.model
        self._failed.pop(name, None)
        try:
            model = (await self.registry.GetModel(GetModelRequest(model=name))).model
        except NotFound:
            await self._remove(name)
            return
        if self._is_old(name, "", int(model.etag or 0)):
            return
        aliases = list(model.spec.serving.aliases) or [CHAMPION]
        failures: list[MillstreamError] = []
        refused = 0
        for alias in aliases:
            try:
                refused += not await self._serve(name, alias)
            except MillstreamError as error:
                failures.append(error)
        metrics.REFUSED_ALIASES.labels(name).set(refused)
        await self._not_served(name, self.serving.keep_only(name, aliases))
        await self.set_health(f"model/{name}", bool(self.serving.loaded(name)))
        if failures:
            raise failures[0]
        self.serving.settled(name)

    @override
    async def end(self, key: ModelKey, error: MillstreamError) -> None:
        # A version that could not be loaded is refused; an error of the registry is retried at the next resync.
        if version := self._failed.get(key.model):
            await self._refuse(version, error.text)
            await self.reconcile(key)
        self.serving.settled(key.model)

    async def _serve(self, model: str, alias: str) -> bool:
        """Serve an alias by the version that it names. False: it is refused, and the one before goes on serving."""
        entry = await self._newest(model, alias)
        if entry is None:
            return True
        if not entry.version:
            text = f"model {model} has no version under alias {alias} yet: train one, and promote it when its report passed"
            self.serving.put(model, alias, UnavailableSlot(NotFound, text))
            await self.set_health(f"model/{model}/{alias}", False)
            return True
        reason = await self._serve_version(model, alias, entry.version)
        await self.set_health(f"model/{model}/{alias}", not reason)
        if reason and alias not in self.serving.loaded(model) and not await self._fall_back(model, alias, entry.number):
            text = f"version {entry.version} of model {model}, named by alias {alias}, is not served: {reason}"
            self.serving.put(
                model, alias, UnavailableSlot(NotFound, f"{text}. Another version can be promoted instead")
            )
        return not reason

    async def _newest(self, model: str, alias: str) -> AliasEntry | None:
        """The alias's newest entry, of version 0 where there is none; None when a replica answered with an older one."""
        try:
            entry = (await self.registry.GetAlias(GetAliasRequest(model=model, alias=alias))).entry
        except NotFound:
            entry = AliasEntry(model=model, alias=alias)
        return None if self._is_old(model, alias, entry.number) else entry

    async def _fall_back(self, model: str, alias: str, number: int) -> bool:
        """Serve the newest earlier version that is not refused, as the replicas that ran before the refusal still do."""
        entries: list[AliasEntry] = []
        request = ListAliasEntriesRequest(model=model, alias=alias, page_size=1000)
        async for page in pages(self.registry.ListAliasEntries, request):
            entries += page.entries
        for entry in sorted(entries, key=lambda entry: -entry.number):
            if entry.number < number and entry.version and not await self._serve_version(model, alias, entry.version):
                return True
        return False

    async def _serve_version(self, model: str, alias: str, number: int) -> str:
        """Serve the alias by this version, loading it if needed; returns why it cannot, "" when it does."""
        loaded = self.serving.loaded(model)
        if alias in loaded and loaded[alias].source.version == number:
            return ""
        for version in loaded.values():
            if version.source.version == number:
                self._swap(alias, version)
                return ""
        if refusal := await self.store.refusal(model, number):
            return refusal.reason
        if alias not in loaded:
            self.serving.put(
                model,
                alias,
                UnavailableSlot(Unavailable, f"version {number} of model {model} is being loaded: try again"),
            )
        return await self._load(model, alias, number)

    async def _load(self, model: str, alias: str, number: int) -> str:
        request = GetModelVersionRequest(model=model, version=number)
        version = (await self.registry.GetModelVersion(request)).model_version
        try:
            loaded = await self.loader.load(version)
        except Rejected as error:
            return await self._refuse(version, str(error))
        except MissingRecipe as error:
            metrics.LOADS.labels(model, "failed").inc()
            return str(error)
        except Exception:
            self._failed.setdefault(model, version)
            metrics.LOADS.labels(model, "failed").inc()
            raise
        metrics.LOADS.labels(model, "loaded").inc()
        self._swap(alias, loaded)
        return ""

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

    def _is_old(self, model: str, alias: str, number: int) -> bool:
        """Whether a replica of the registry answered with an older state than another did before."""
        known = self._numbers.get((model, alias), 0)
        self._numbers[model, alias] = max(known, number)
        return number < known


class PruneCache(Reconciler[CacheKey]):
    """Artifacts that are not served leave the cache after a while: a rollback within it needs no download."""

    kind = CacheKey.kind

    def __init__(self, cache: ArtifactCache, serving: Serving, keep_seconds: float) -> None:
        self.cache, self.serving, self.keep_seconds = cache, serving, keep_seconds

    @override
    async def pending(self) -> AsyncIterator[CacheKey]:
        yield CacheKey()

    @override
    async def reconcile(self, key: CacheKey) -> None:
        gone = await asyncio.to_thread(self.cache.remove_unused, self.keep_seconds, self.serving.digests())
        if gone:
            log.info("cache pruned", extra={"artifacts": gone})

    @override
    async def end(self, key: CacheKey, error: MillstreamError) -> None:
        log.warning("cache not pruned", extra={"error": error.text})
