"""The registry's objects: three ledgers a model, and the event that each of their entries is announced by."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from cachetools import LRUCache

from millstream.aliases import served_aliases
from millstream.defaults import CHAMPION
from millstream.errors import DataLoss, NotFound
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied, ModelVersionRegistered
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.concurrency import in_order
from servicekit.facts.ledger import DamagedEntry, Entry, EntryCache, Ledger, intact, read_entry
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.ids import check_name

LEDGERS = 10_000
"""Ledgers that are kept with what was read of them, also those of names that callers make up; others are read again."""
ENTRIES = 4096
"""Entries that are kept, of all of them together."""
NAMES_SHOWN = 20


class Store:
    """Ledgers `models/{model}/spec|versions|aliases/{alias}`. Every method may raise Unavailable.

    One that needs an entry that is damaged raises DataLoss.
    """

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._entries: EntryCache = LRUCache(ENTRIES)
        self._ledger: Callable[..., Ledger[Any]] = lru_cache(LEDGERS)(self._open)

    def specs(self, model: str) -> Ledger[ModelSpec]:
        """The specs that were applied. Raises InvalidArgument for a name that is not valid."""
        return self._ledger(f"models/{check_name(model, 'model')}/spec", ModelSpec)

    def versions(self, model: str) -> Ledger[ModelVersion]:
        """The versions; an entry's number is the version's. Raises InvalidArgument for a name that is not valid."""
        return self._ledger(f"models/{check_name(model, 'model')}/versions", ModelVersion)

    def alias(self, model: str, alias: str) -> Ledger[AliasEntry]:
        """The moves of an alias, "" being champion. Raises InvalidArgument for a name that is not valid."""
        alias = alias or CHAMPION
        return self._ledger(f"models/{check_name(model, 'model')}/aliases/{check_name(alias, 'alias')}", AliasEntry)

    async def names(self) -> list[str]:
        """The names of all models; one may be listed that does not exist (see Blobs.list)."""
        return [name async for name in self.blobs.children("models/")]

    async def check_exists(self, model: str) -> None:
        """Raise NotFound for a model that was never applied."""
        if not await self.specs(model).has(1):
            declare = "declare it with `millstream apply MODEL -d DATASET`"
            raise NotFound(f"no model {model}; there are: {await self._some_names()}; {declare}", model=model)

    async def _some_names(self) -> str:
        """The first few, for an error; a platform may have thousands."""
        found: list[str] = []
        async for name in self.blobs.children("models/"):
            if len(found) == NAMES_SHOWN:
                return f"{', '.join(found)} and others"
            found.append(name)
        return ", ".join(found) or "none yet"

    async def model(self, name: str) -> Model:
        """A model with its newest spec. Raises NotFound, and DataLoss if that is damaged."""
        await self.check_exists(name)
        specs = self.specs(name)
        newest, first = intact(await specs.entry(await specs.count())), await specs.entry(1)
        model = Model(name=newest.message.model, spec=newest.message, etag=str(newest.number), actor=newest.actor)
        if isinstance(first, Entry):
            model.create_time.CopyFrom(timestamp_of_ns(first.time_ns))
        model.update_time.CopyFrom(timestamp_of_ns(newest.time_ns))
        return model

    async def shown_model(self, name: str) -> Model:
        """As model(), with the newest move of champion and of each alias that inference serves."""
        model = await self.model(name)
        aliases = list(dict.fromkeys((CHAMPION, *served_aliases(model.spec))))
        model.aliases.extend([move async for move in in_order(partial(self._newest_move, name), aliases)])
        return model

    async def listed_model(self, name: str) -> Model:
        """As shown_model(); one whose spec is damaged has its name and the problem."""
        try:
            return await self.shown_model(name)
        except DataLoss as error:
            return Model(name=name, problem=error.text)

    async def version(self, model: str, number: int) -> ModelVersion:
        """One version of a model. Raises NotFound."""
        await self.check_exists(model)
        versions = self.versions(model)
        if not await versions.has(number):
            raise NotFound(f"{model} has no version {number}; its newest is {await versions.count()}", model=model)
        return to_version(intact(await versions.entry(number)))

    async def version_numbers(self, model: str, after: int = 0) -> range:
        """Of all versions above `after`, newest first. Raises NotFound."""
        await self.check_exists(model)
        return range(await self.versions(model).count(), after, -1)

    async def listed_version(self, model: str, number: int) -> ModelVersion:
        """As version(), of one that exists; a damaged one has its number and the problem."""
        entry = await self.versions(model).entry(number)
        if isinstance(entry, DamagedEntry):
            return ModelVersion(model=model, version=entry.number, problem=entry.problem)
        return to_version(entry)

    async def aliases(self, model: str) -> list[str]:
        """The names of the model's aliases; one may be listed that does not exist. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        return [name async for name in self.blobs.children(f"models/{model}/aliases/")]

    async def listed_alias(self, model: str, alias: str) -> AliasEntry:
        """The newest move of the alias; a damaged one has its number and the problem. Raises NotFound: it has none."""
        move = await self._newest_move(model, alias)
        if not move.number:
            raise NotFound(f"{alias} of {model} names no version yet", model=model)
        return move

    async def _newest_move(self, model: str, alias: str) -> AliasEntry:
        """As listed_alias(); of number 0 where there is none."""
        number = await self.alias(model, alias).count()
        if not number:
            return AliasEntry(model=model, alias=alias)
        return await self.listed_alias_entry(model, alias, number)

    async def newest_alias_entry(self, model: str, alias: str) -> AliasEntry | None:
        """The newest move of the alias; None: it was never moved. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        newest = await self.alias(model, alias).newest()
        return to_alias(newest) if newest else None

    async def alias_entries(self, model: str, alias: str) -> list[AliasEntry]:
        """Every move of the alias, oldest first. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        return [to_alias(entry) for entry in await self.alias(model, alias).entries()]

    async def alias_entry_at(self, model: str, alias: str, time_ns: int) -> AliasEntry | None:
        """The move that held at a time; None: the alias named nothing then. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        ledger = self.alias(model, alias)
        number = (await ledger.index()).number_at(time_ns)
        return to_alias(intact(await ledger.entry(number))) if number else None

    async def alias_numbers(self, model: str, alias: str, after: int = 0) -> range:
        """Of all moves of the alias above `after`, newest first. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        return range(await self.alias(model, alias).count(), after, -1)

    async def listed_alias_entry(self, model: str, alias: str, number: int) -> AliasEntry:
        """One move of the alias that exists; a damaged one has its number and the problem."""
        entry = await self.alias(model, alias).entry(number)
        if isinstance(entry, DamagedEntry):
            return AliasEntry(model=model, alias=alias or CHAMPION, number=entry.number, problem=entry.problem)
        return to_alias(entry)

    def _open(self, prefix: str, kind: type[Any]) -> Ledger[Any]:
        return Ledger(self.blobs, prefix, kind, self.outbox.put, self._entries)


def to_version(entry: Entry[ModelVersion]) -> ModelVersion:
    """The version of a ledger entry, with its number and time."""
    version = ModelVersion(version=entry.number, create_time=timestamp_of_ns(entry.time_ns))
    version.MergeFrom(entry.message)
    return version


def to_alias(entry: Entry[AliasEntry]) -> AliasEntry:
    """The move of a ledger entry, with its number, request_id, actor and time."""
    alias = AliasEntry(
        number=entry.number, actor=entry.actor, request_id=entry.request_id, time=timestamp_of_ns(entry.time_ns)
    )
    alias.MergeFrom(entry.message)
    return alias


def _applied(key: str, data: bytes) -> Fact:
    entry = read_entry(data, ModelSpec, key)
    spec = entry.message
    return Fact(spec.model, ModelApplied(model=spec.model, number=entry.number, dataset=spec.dataset))


def _registered(key: str, data: bytes) -> Fact:
    entry = read_entry(data, ModelVersion, key)
    version = entry.message
    return Fact(version.model, ModelVersionRegistered(model=version.model, version=entry.number, run_id=version.run_id))


def _moved(key: str, data: bytes) -> Fact:
    entry = read_entry(data, AliasEntry, key)
    moved = partial(AliasMoved, model=entry.message.model, alias=entry.message.alias)
    return Fact(entry.message.model, moved(number=entry.number, version=entry.message.version))


FACTS: Announce = {
    "models/*/spec/*": _applied,
    "models/*/versions/*": _registered,
    "models/*/aliases/*/*": _moved,
}
