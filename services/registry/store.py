"""The registry's objects: three ledgers a model, and the event that each of their entries is announced by."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from millstream.defaults import CHAMPION
from millstream.errors import DataLoss, NotFound
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied, ModelVersionRegistered
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import DamagedEntry, Entry, Ledger, intact, read_entry
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.ids import check_name

LEDGERS = 10_000
"""Ledgers that are kept with what was read of them, also those of names that callers make up; others are read again."""


class Store:
    """Ledgers `models/{model}/spec|versions|aliases/{alias}`. Every method may raise Unavailable.

    One that needs an entry that is damaged raises DataLoss.
    """

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
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

    async def models(self) -> list[str]:
        """The names of all models that were applied, also of those whose spec is damaged."""
        names = [name async for name in self.blobs.children("models/")]
        return [name for name in names if await self.specs(name).listed()]

    async def check_exists(self, model: str) -> None:
        """Raise NotFound for a model that was never applied."""
        await self._applied(model)

    async def model(self, name: str) -> Model:
        """A model with its newest spec. Raises NotFound."""
        return to_model(await self._applied(name))

    async def listed_model(self, name: str) -> Model:
        """As model(); one whose spec is damaged has its name and the problem."""
        try:
            return await self.model(name)
        except DataLoss as error:
            return Model(name=name, problem=error.text)

    async def version(self, model: str, number: int) -> ModelVersion:
        """One version of a model. Raises NotFound."""
        await self.check_exists(model)
        entries = await self.versions(model).listed()
        if not 0 < number <= len(entries):
            raise NotFound(f"{model} has no version {number}; its newest is {len(entries)}", model=model)
        return to_version(intact(entries[number - 1]))

    async def listed_versions(self, model: str) -> list[ModelVersion]:
        """Every version, oldest first; a damaged one has its number and the problem. Raises NotFound."""
        await self.check_exists(model)
        return [
            ModelVersion(model=model, version=entry.number, problem=entry.problem)
            if isinstance(entry, DamagedEntry)
            else to_version(entry)
            for entry in await self.versions(model).listed()
        ]

    async def newest_alias_entry(self, model: str, alias: str) -> AliasEntry | None:
        """The newest move of the alias; None: it was never moved. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        newest = await self.alias(model, alias).newest()
        return to_alias(newest) if newest else None

    async def alias_entries(self, model: str, alias: str) -> list[AliasEntry]:
        """Every move of the alias, oldest first. Raises NotFound for an unknown model."""
        await self.check_exists(model)
        return [to_alias(entry) for entry in await self.alias(model, alias).entries()]

    async def listed_alias_entries(self, model: str, alias: str) -> list[AliasEntry]:
        """As alias_entries(); a damaged one has its number and the problem."""
        await self.check_exists(model)
        return [
            AliasEntry(model=model, alias=alias or CHAMPION, number=entry.number, problem=entry.problem)
            if isinstance(entry, DamagedEntry)
            else to_alias(entry)
            for entry in await self.alias(model, alias).listed()
        ]

    async def _applied(self, model: str) -> Sequence[Entry[ModelSpec] | DamagedEntry]:
        entries = await self.specs(model).listed()
        if not entries:
            known = ", ".join(await self.models()) or "none yet"
            raise NotFound(f"no model {model}; there are: {known}. Declare it with `millstream apply -f`.", model=model)
        return entries

    def _open(self, prefix: str, kind: type[Any]) -> Ledger[Any]:
        return Ledger(self.blobs, prefix, kind, self.outbox.put)


def to_model(entries: Sequence[Entry[ModelSpec] | DamagedEntry]) -> Model:
    """The model of a ledger of specs; its etag is the number of the newest. Raises DataLoss if that is damaged."""
    newest, first = intact(entries[-1]), entries[0]
    model = Model(name=newest.message.model, spec=newest.message, etag=str(newest.number), actor=newest.actor)
    if isinstance(first, Entry):
        model.create_time.CopyFrom(timestamp_of_ns(first.time_ns))
    model.update_time.CopyFrom(timestamp_of_ns(newest.time_ns))
    return model


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
