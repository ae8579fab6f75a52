"""Dataprep's objects: what was asked, how it ended, and each dataset's ledgers of specs and of snapshots.

Everything about a dataset lies under `datasets/{dataset}/`; uploaded bytes lie under `uploads/{digest}`.
"""

from collections.abc import Sequence
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import Dataset, DatasetPart, DatasetSpec, Snapshot
from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import NotFound
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.facts.ledger import Entry, Ledger, read_entry
from servicekit.facts.outbox import Announce, Fact, Outbox
from servicekit.ids import check_name
from services.dataprep.pipeline.ingest import PartFile


class Store:
    def __init__(self, blobs: Blobs, outbox: Outbox) -> None:
        self.blobs, self.outbox = blobs, outbox
        self._specs: dict[str, Ledger[DatasetSpec]] = {}
        self._snapshots: dict[str, Ledger[Snapshot]] = {}

    # --- datasets

    def specs(self, dataset: str) -> Ledger[DatasetSpec]:
        """What was asked for before there was a snapshot; from then on the snapshots say it."""
        return self._specs.setdefault(dataset, Ledger(self.blobs, f"datasets/{dataset}/spec", DatasetSpec))

    def snapshots(self, dataset: str) -> Ledger[Snapshot]:
        made = Ledger(self.blobs, f"datasets/{dataset}/ledger", Snapshot, self.outbox.put)
        return self._snapshots.setdefault(dataset, made)

    async def names(self) -> list[str]:
        return [name async for name in self.blobs.children("datasets/")]

    async def dataset(self, name: str) -> Dataset:
        """Raises NotFound for one into which nothing was ever imported."""
        check_name(name, "dataset")
        # A ledger may be there before its first entry: the first import is just being recorded.
        known = name in self._specs or await self.blobs.exists(f"datasets/{name}/spec/{1:010d}")
        asked = await self.specs(name).entries() if known else ()
        if not asked:
            raise NotFound(f"no dataset {name}: `millstream datasets import` makes one of a file", dataset=name)
        newest = await self.snapshots(name).newest()
        dataset = Dataset(name=name, spec=newest.message.spec if newest else asked[-1].message)
        dataset.newest_number = newest.number if newest else 0
        dataset.create_time.CopyFrom(timestamp_of_ns(asked[0].time_ns))
        return dataset

    async def snapshot(self, dataset: str, number: int) -> Snapshot:
        """One snapshot, the newest by 0. Raises NotFound."""
        entries = await self._entries(dataset)
        if not entries:
            raise NotFound(f"{dataset} has no snapshot yet: look at its imports", dataset=dataset)
        if number > len(entries):
            raise NotFound(f"{dataset} has no snapshot {number}; its newest is {len(entries)}", dataset=dataset)
        return to_snapshot(entries[number - 1])

    async def snapshots_newest_first(self, dataset: str) -> list[Snapshot]:
        return [to_snapshot(entry) for entry in reversed(await self._entries(dataset))]

    async def _entries(self, dataset: str) -> Sequence[Entry[Snapshot]]:
        await self.dataset(dataset)
        return await self.snapshots(dataset).entries()

    # --- imports

    async def record(self, wanted: Import) -> Import:
        """The import that is recorded under this request_id: this one, unless another came first."""
        key = f"datasets/{wanted.dataset}/imports/{wanted.request_id}"
        if await self.blobs.put_if_absent(key, wanted.SerializeToString(deterministic=True)):
            return wanted
        return Import.FromString(await self.blobs.get(key))

    async def requested(self, dataset: str, request_id: str) -> Import:
        """The import as it was asked for. Raises NotFound."""
        try:
            return Import.FromString(await self.blobs.get(f"datasets/{dataset}/imports/{request_id}"))
        except NotFound:
            raise NotFound(
                f"{dataset} has no import {request_id}: check both names", dataset=dataset, request_id=request_id
            ) from None

    async def outcome(self, dataset: str, request_id: str) -> Import | None:
        """The import as it ended; None while it has not."""
        try:
            return Import.FromString(await self.blobs.get(f"datasets/{dataset}/outcomes/{request_id}"))
        except NotFound:
            return None

    async def end(self, ended: Import) -> bool:
        """Store how an import ended. False: it ended before, and that stands."""
        key = f"datasets/{ended.dataset}/outcomes/{ended.request_id}"
        return await self.blobs.put_if_absent(key, ended.SerializeToString(deterministic=True))

    async def pending(self, dataset: str) -> list[str]:
        """The request_ids of imports that have not ended."""
        asked, ended = f"datasets/{dataset}/imports/", f"datasets/{dataset}/outcomes/"
        requests = {listed.key.removeprefix(asked) async for listed in self.blobs.list(asked)}
        return sorted(requests - {listed.key.removeprefix(ended) async for listed in self.blobs.list(ended)})

    # --- bytes

    async def store_upload(self, digest: str, path: Path) -> None:
        await self.blobs.upload(f"uploads/{digest}", path)

    async def fetch_upload(self, digest: str, path: Path) -> None:
        await self.blobs.download(f"uploads/{digest}", path)

    async def store_part(self, dataset: str, part: PartFile) -> DatasetPart:
        key = f"datasets/{dataset}/parts/{part.digest}"
        await self.blobs.upload(key, part.path)
        return DatasetPart(
            split=part.split, table="rows", key=key, digest=part.digest, size_bytes=part.size_bytes, rows=part.rows
        )


def to_snapshot(entry: Entry[Snapshot]) -> Snapshot:
    snapshot = Snapshot()
    snapshot.CopyFrom(entry.message)
    snapshot.number, snapshot.request_id = entry.number, entry.request_id
    snapshot.create_time.CopyFrom(timestamp_of_ns(entry.time_ns))
    return snapshot


def _created(key: str, data: bytes) -> Fact:
    entry = read_entry(data, Snapshot)
    made = entry.message
    return Fact(made.dataset, SnapshotCreated(dataset=made.dataset, number=entry.number, snapshot_id=made.snapshot_id))


FACTS: Announce = {"datasets/*/ledger/*": _created}
