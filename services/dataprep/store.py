"""Dataprep's objects: imports and their outcomes, and each dataset's ledgers of specs and of snapshots.

Everything of a dataset is under `datasets/{dataset}/`; uploaded files are under `uploads/{digest}`.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from cachetools import LRUCache

from millstream.dataset.v1.dataset_pb2 import Dataset, DatasetPart, DatasetSpec, Snapshot
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DataLoss, NotFound
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.parts import PartFile
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.blobs.stored_names import StoredNames
from servicekit.facts.ledger import DamagedEntry, Entry, EntryCache, Ledger, intact, read_entry
from servicekit.facts.markers import fact_id_of
from servicekit.facts.open_work import OpenFact, OpenWork
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.ids import check_name

LEDGERS = 10_000
"""Ledgers that are kept with what is known of them, also those of names that callers make up; others are read again."""
IMPORTS_READ = 100
"""Of a dataset without a snapshot, to find its newest: more than these were hardly all refused."""
ENTRIES = 1024
"""Entries that are kept, of all of them together: a snapshot is some 10 kB."""


class Store:
    """Reads and writes dataprep's objects. Every method may raise Unavailable, and DataLoss where one that it needs is
    damaged."""

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._entries: EntryCache = LRUCache(ENTRIES)
        self._ledger: Callable[..., Ledger[Any]] = lru_cache(LEDGERS)(self._open)
        self.open_work = OpenWork(blobs, "dataprep")

    # --- datasets

    def specs(self, dataset: str) -> Ledger[DatasetSpec]:
        """The specs of recorded imports. Once a dataset has a snapshot, the newest snapshot's spec holds."""
        return self._ledger(f"datasets/{dataset}/spec", DatasetSpec)

    def snapshots(self, dataset: str) -> Ledger[Snapshot]:
        """The dataset's snapshots; an appended one is announced as SnapshotCreated."""
        return self._ledger(f"datasets/{dataset}/ledger", Snapshot)

    async def names(self) -> list[str]:
        """The names of all datasets; one may be listed that does not exist (see Blobs.list)."""
        return [name async for name in self.blobs.children("datasets/")]

    async def check_exists(self, name: str) -> None:
        """Raise NotFound when no import of the dataset was ever recorded, and InvalidArgument for a name that is none."""
        if not await self.specs(check_name(name, "dataset")).has(1):
            raise NotFound(f"no dataset {name}: create it with `millstream datasets import`", dataset=name)

    async def dataset(self, name: str) -> Dataset:
        """One dataset. Raises NotFound."""
        await self.check_exists(name)
        newest, specs = await self.snapshots(name).newest(), self.specs(name)
        spec = newest.message.spec if newest else intact(await specs.entry(await specs.count())).message
        dataset = Dataset(name=name, spec=spec, newest_number=newest.number if newest else 0)
        if isinstance(first := await specs.entry(1), Entry):
            dataset.create_time.CopyFrom(timestamp_of_ns(first.time_ns))
        return dataset

    async def listed_dataset(self, name: str) -> Dataset:
        """As dataset(); one that is damaged has its name and the problem."""
        try:
            return await self.dataset(name)
        except DataLoss as error:
            return Dataset(name=name, problem=error.text)

    async def snapshot(self, dataset: str, number: int) -> Snapshot:
        """One snapshot; number 0 is the newest. Raises NotFound."""
        await self.check_exists(dataset)
        snapshots = self.snapshots(dataset)
        number = number or await snapshots.count()
        if not number:
            raise NotFound(f"{dataset} has no snapshot yet: {await self._why_empty(dataset)}", dataset=dataset)
        if not await snapshots.has(number):
            newest = await snapshots.count()
            raise NotFound(f"{dataset} has no snapshot {number}; its newest is {newest}", dataset=dataset)
        return to_snapshot(intact(await snapshots.entry(number)))

    async def _why_empty(self, dataset: str) -> str:
        """How the newest import of a dataset without a snapshot stands, and what to do."""
        names = [name async for name in self.blobs.children(f"datasets/{dataset}/imports/")]
        imports = []
        for name in names[:IMPORTS_READ]:
            with suppress(NotFound, DataLoss):
                imports.append(await self.outcome(dataset, name) or await self.requested(dataset, name))
        if not imports:
            return f"import a file with `millstream datasets import FILE -d {dataset}`"
        newest = max(imports, key=_order)
        if newest.state != Import.STATE_REFUSED:
            return f"import {newest.request_id} of {newest.source.file_name} has not ended; ask again in a moment"
        again = f"`millstream datasets import FILE -d {dataset} --recipe {newest.spec.recipe or 'RECIPE'} --watch`"
        return f"its newest import, of {newest.source.file_name}, was refused: {newest.refusal}. Then: {again}"

    async def snapshot_numbers(self, dataset: str) -> range:
        """Of all snapshots, newest first. Raises NotFound for an unknown dataset."""
        await self.check_exists(dataset)
        return range(await self.snapshots(dataset).count(), 0, -1)

    async def listed_snapshot(self, dataset: str, number: int) -> Snapshot:
        """As snapshot(), of one that exists; a damaged one has its number and the problem."""
        entry = await self.snapshots(dataset).entry(number)
        if isinstance(entry, DamagedEntry):
            return Snapshot(dataset=dataset, number=entry.number, problem=entry.problem)
        return to_snapshot(entry)

    # --- imports

    async def record(self, requested: Import) -> Import:
        """Record the import. Returns the import recorded under this request_id, which may be an earlier one."""
        key = _import_key(requested.dataset, requested.request_id)
        if await self.outbox.put(key, requested.SerializeToString(deterministic=True)):
            return requested
        return decode(Import, await self.blobs.get(key), key)

    def fact_of(self, recorded: Import) -> OpenFact:
        """What a recorded import asks of dataprep."""
        return OpenFact(fact_id_of(_import_key(recorded.dataset, recorded.request_id)), recorded)

    async def requested(self, dataset: str, request_id: str) -> Import:
        """The import as it was recorded. Raises NotFound."""
        key = _import_key(dataset, request_id)
        try:
            return decode(Import, await self.blobs.get(key), key)
        except NotFound:
            raise NotFound(
                f"{dataset} has no import {request_id}: check both names", dataset=dataset, request_id=request_id
            ) from None

    async def outcome(self, dataset: str, request_id: str) -> Import | None:
        """The import as it ended; None while it is pending."""
        key = _outcome_key(dataset, request_id)
        try:
            return decode(Import, await self.blobs.get(key), key)
        except NotFound:
            return None

    async def has_ended(self, dataset: str, request_id: str) -> bool:
        """Whether the import has an outcome."""
        return await self.blobs.exists(_outcome_key(dataset, request_id))

    async def end(self, ended: Import) -> bool:
        """Store how an import ended. False: another outcome was stored before, and holds."""
        key = _outcome_key(ended.dataset, ended.request_id)
        return await self.blobs.put_if_absent(key, ended.SerializeToString(deterministic=True))

    async def pending(self, dataset: str) -> list[Import]:
        """The imports without an outcome, in the order in which they end; some behind the first may have ended already."""
        recorded = await self.open_work.of_kind(Import, lambda fact: _import_key(fact.dataset, fact.request_id))
        mine = [fact for fact in recorded if fact.dataset == dataset]
        # Two replicas that recorded one import at once have left a marker each.
        earliest = {one.request_id: one for one in sorted(mine, key=_order, reverse=True)}
        waiting = sorted(earliest.values(), key=_order)
        for number, one in enumerate(waiting):
            if not await self.has_ended(dataset, one.request_id):
                return waiting[number:]
        return []

    async def imports_before(self, requested: Import) -> int:
        """How many imports of the dataset must end before this one. Raises DataLoss if the next to end is damaged."""
        pending = await self.pending(requested.dataset)
        mine = next((one for one in pending if one.request_id == requested.request_id), requested)
        before = [one for one in pending if _order(one) < _order(mine)]
        for following in before[:1]:
            with suppress(NotFound):  # it has no end of its own, and is about to be open no more
                await self.requested(following.dataset, following.request_id)
        return len(before)

    async def compare(self, dataset: str) -> list[str]:
        """The request_ids of imports without an outcome, found among all there are, sorted.

        One that had no marker of open work has it from now on.
        """
        folder = f"datasets/{dataset}"
        ended = set(await StoredNames(self.blobs, f"{folder}/outcomes/").all())
        marked = {one.request_id for one in await self.pending(dataset)}
        names = await StoredNames(self.blobs, f"{folder}/imports/").all()
        found = [name for name in names if name not in ended and "/" not in name]
        for request_id in found:
            if request_id not in marked:
                with suppress(DataLoss):  # its own reconcile reports it
                    await self.outbox.reopen(_import_key(dataset, request_id))
        return found

    def _open(self, prefix: str, kind: type[Any]) -> Ledger[Any]:
        return Ledger(self.blobs, prefix, kind, self.outbox.put if kind is Snapshot else None, self._entries)

    # --- bytes

    async def store_upload(self, digest: str, path: Path) -> None:
        """Store a received file under its digest."""
        await self.blobs.upload(f"uploads/{digest}", path)

    async def fetch_upload(self, digest: str, path: Path) -> None:
        """Download a received file, unverified. Raises NotFound."""
        await self.blobs.download(f"uploads/{digest}", path)

    async def store_part(self, dataset: str, part: PartFile) -> DatasetPart:
        """Store a part under its digest."""
        key = f"datasets/{dataset}/parts/{part.digest}"
        await self.blobs.upload(key, part.path)
        return DatasetPart(
            split=part.split, table="rows", key=key, digest=part.digest, size_bytes=part.size_bytes, rows=part.rows
        )


def _order(requested: Import) -> tuple[int, str]:
    """The order of a dataset's imports: as they were asked for, because the last one is its state."""
    return requested.create_time.ToNanoseconds(), requested.request_id


def _import_key(dataset: str, request_id: str) -> str:
    return f"datasets/{dataset}/imports/{request_id}"


def _outcome_key(dataset: str, request_id: str) -> str:
    return f"datasets/{dataset}/outcomes/{request_id}"


def to_snapshot(entry: Entry[Snapshot]) -> Snapshot:
    """The snapshot of a ledger entry, with its number, request_id and time."""
    snapshot = Snapshot()
    snapshot.CopyFrom(entry.message)
    snapshot.number, snapshot.request_id = entry.number, entry.request_id
    snapshot.create_time.CopyFrom(timestamp_of_ns(entry.time_ns))
    return snapshot


def _created(key: str, data: bytes) -> Fact:
    entry = read_entry(data, Snapshot, key)
    made = entry.message
    return Fact(made.dataset, SnapshotCreated(dataset=made.dataset, number=entry.number, snapshot_id=made.snapshot_id))


def _recorded(key: str, data: bytes) -> Fact:
    recorded = decode(Import, data, key)
    return Fact(recorded.dataset, recorded)


FACTS: Announce = {"datasets/*/ledger/*": _created, "datasets/*/imports/*": _recorded}
