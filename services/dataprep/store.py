"""Dataprep's objects: imports and their outcomes, and each dataset's ledgers of specs and of snapshots.

Everything of a dataset is under `datasets/{dataset}/`; uploaded files are under `uploads/{digest}`.
"""

from collections.abc import Sequence
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import Dataset, DatasetPart, DatasetSpec, Snapshot
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DataLoss, NotFound
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.parts import PartFile
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.blobs.stored_names import StoredNames
from servicekit.facts.ledger import DamagedEntry, Entry, Ledger, intact, read_entry
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.ids import check_name


class Store:
    """Reads and writes dataprep's objects. Every method may raise Unavailable, and DataLoss where one that it needs is
    damaged."""

    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._specs: dict[str, Ledger[DatasetSpec]] = {}
        self._snapshots: dict[str, Ledger[Snapshot]] = {}
        self._imports: dict[str, tuple[StoredNames, StoredNames]] = {}

    # --- datasets

    def specs(self, dataset: str) -> Ledger[DatasetSpec]:
        """The specs of recorded imports. Once a dataset has a snapshot, the newest snapshot's spec holds."""
        return self._specs.setdefault(dataset, Ledger(self.blobs, f"datasets/{dataset}/spec", DatasetSpec))

    def snapshots(self, dataset: str) -> Ledger[Snapshot]:
        """The dataset's snapshots; an appended one is announced as SnapshotCreated."""
        made = Ledger(self.blobs, f"datasets/{dataset}/ledger", Snapshot, self.outbox.put)
        return self._snapshots.setdefault(dataset, made)

    async def names(self) -> list[str]:
        """The names of all datasets; one may be listed that does not exist (see Blobs.list)."""
        return [name async for name in self.blobs.children("datasets/")]

    async def dataset(self, name: str) -> Dataset:
        """One dataset. Raises NotFound when no import of it was ever recorded."""
        specs = await self._recorded(name)
        newest = await self.snapshots(name).newest()
        dataset = Dataset(name=name, spec=newest.message.spec if newest else intact(specs[-1]).message)
        dataset.newest_number = newest.number if newest else 0
        if isinstance(first := specs[0], Entry):
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
        await self._recorded(dataset)
        entries = await self.snapshots(dataset).listed()
        if not entries:
            raise NotFound(f"{dataset} has no snapshot yet: see how its imports ended", dataset=dataset)
        if number > len(entries):
            raise NotFound(f"{dataset} has no snapshot {number}; its newest is {len(entries)}", dataset=dataset)
        return to_snapshot(intact(entries[number - 1]))

    async def snapshots_newest_first(self, dataset: str) -> list[Snapshot]:
        """All snapshots; a damaged one has its number and the problem. Raises NotFound for an unknown dataset."""
        await self._recorded(dataset)
        return [
            Snapshot(dataset=dataset, number=entry.number, problem=entry.problem)
            if isinstance(entry, DamagedEntry)
            else to_snapshot(entry)
            for entry in reversed(await self.snapshots(dataset).listed())
        ]

    async def _recorded(self, name: str) -> Sequence[Entry[DatasetSpec] | DamagedEntry]:
        """The specs of a dataset, at least one. Raises NotFound when no import of it was ever recorded."""
        check_name(name, "dataset")
        # The ledger object may exist before its first entry, while the first import is being recorded.
        known = name in self._specs or await self.blobs.exists(f"datasets/{name}/spec/{1:010d}")
        specs = await self.specs(name).listed() if known else ()
        if not specs:
            raise NotFound(f"no dataset {name}: create it with `millstream datasets import`", dataset=name)
        return specs

    # --- imports

    async def record(self, requested: Import) -> Import:
        """Record the import. Returns the import recorded under this request_id, which may be an earlier one."""
        key = f"datasets/{requested.dataset}/imports/{requested.request_id}"
        if await self.blobs.put_if_absent(key, requested.SerializeToString(deterministic=True)):
            return requested
        return decode(Import, await self.blobs.get(key), key)

    async def requested(self, dataset: str, request_id: str) -> Import:
        """The import as it was recorded. Raises NotFound."""
        key = f"datasets/{dataset}/imports/{request_id}"
        try:
            return decode(Import, await self.blobs.get(key), key)
        except NotFound:
            raise NotFound(
                f"{dataset} has no import {request_id}: check both names", dataset=dataset, request_id=request_id
            ) from None

    async def outcome(self, dataset: str, request_id: str) -> Import | None:
        """The import as it ended; None while it is pending."""
        key = f"datasets/{dataset}/outcomes/{request_id}"
        try:
            return decode(Import, await self.blobs.get(key), key)
        except NotFound:
            return None

    async def end(self, ended: Import) -> bool:
        """Store how an import ended. False: another outcome was stored before, and holds."""
        key = f"datasets/{ended.dataset}/outcomes/{ended.request_id}"
        return await self.blobs.put_if_absent(key, ended.SerializeToString(deterministic=True))

    async def pending(self, dataset: str) -> list[str]:
        """The request_ids of imports without an outcome, sorted."""
        requested, ended = self._imports.setdefault(dataset, self._import_names(dataset))
        return sorted(set(await requested.all()) - set(await ended.all()))

    def _import_names(self, dataset: str) -> tuple[StoredNames, StoredNames]:
        """Of the imports that were recorded, and of those that have ended."""
        folder = f"datasets/{dataset}"
        return StoredNames(self.blobs, f"{folder}/imports/"), StoredNames(self.blobs, f"{folder}/outcomes/")

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


FACTS: Announce = {"datasets/*/ledger/*": _created}
