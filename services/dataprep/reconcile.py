"""Every recorded import ends: succeeded with a snapshot, unchanged, or refused."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.files import file_digest
from millstream.timestamps import now, seconds_of
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.text_limits import LONGEST_TEXT
from servicekit.blobs.parts import PartFile
from servicekit.facts.ledger import Entry
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from services.dataprep import metrics
from services.dataprep.pipeline.ingest import ImportProgress, Ingested, Job, ingest
from services.dataprep.pipeline.read import Refused
from services.dataprep.store import Store, to_snapshot
from services.dataprep.uploads import Uploads

TURN_SECONDS = 0.1
"""Seconds until an import checks again whether an earlier one of its dataset has ended."""


@dataclass(frozen=True)
class ImportKey(Key):
    """One import."""

    kind = "import"
    dataset: str
    request_id: str


class EndImport(Reconciler[ImportKey]):
    """Reads the file, stores the parts, appends to the dataset's ledger, and stores the outcome, in this order.

    Each step is idempotent: parts are named by their digest, the ledger has one entry a request_id, the outcome is put if
    absent. So the process may die between any two steps, and two replicas may do the same import at once.
    """

    kind = ImportKey.kind

    def __init__(
        self, store: Store, catalog: Catalog, uploads: Uploads, unpacked_limit: int, longest_text: int = LONGEST_TEXT
    ) -> None:
        self.store, self.catalog, self.uploads = store, catalog, uploads
        self.unpacked_limit, self.longest_text = unpacked_limit, longest_text
        self.running: dict[ImportKey, ImportProgress] = {}
        """The imports that this replica is running."""

    @override
    async def pending(self) -> AsyncIterator[ImportKey]:
        for dataset in await self.store.names():
            for request_id in await self.store.pending(dataset):
                yield ImportKey(dataset, request_id)

    @override
    async def reconcile(self, key: ImportKey) -> float | None:
        dataset, request_id = key.dataset, key.request_id
        requested = await self.store.requested(dataset, request_id)
        if await self.store.outcome(dataset, request_id):
            self.uploads.drop(key)
            return None
        if await self._waits(requested):
            return TURN_SECONDS
        progress = self.running.setdefault(key, ImportProgress())
        try:
            with self.uploads.work_folder() as folder:
                made = await self._ingest(key, requested, folder, progress)
                parts = [await self._store(dataset, part) for part in made.parts]
            entry = await self._append(requested, made, parts)
            failpoint("dataprep.ledger-appended")
            await self._end(requested, _ended(requested, entry, made), made)
        except Refused as refusal:
            await self._end(requested, _refused(requested, str(refusal), progress.rows_read))
        finally:
            self.running.pop(key, None)
        self.uploads.drop(key)
        return None

    @override
    async def end(self, key: ImportKey, error: MillstreamError) -> None:
        dataset, request_id = key.dataset, key.request_id
        try:
            requested = await self.store.requested(dataset, request_id)
        except NotFound:
            return  # a key may be listed that was never stored (see Blobs.list)
        text = f"the import failed: {error}. See the log of dataprep, then import again with a new request_id"
        await self._end(requested, _refused(requested, text, 0))
        self.uploads.drop(key)

    async def _waits(self, requested: Import) -> bool:
        """Whether an earlier import of the dataset is pending: they end in order, because the last one is its state."""
        for request_id in await self.store.pending(requested.dataset):
            other = await self.store.requested(requested.dataset, request_id)
            if _turn(other) < _turn(requested):
                return True
        return False

    async def _ingest(self, key: ImportKey, requested: Import, folder: Path, progress: ImportProgress) -> Ingested:
        try:
            recipe = self.catalog.spec(requested.spec.recipe) if requested.spec.recipe else None
        except UnknownRecipe as error:
            raise Refused(f"{error}: this replica of dataprep lacks the recipe of the import") from None
        path = self.uploads.path(key) or await self._download(requested, folder)
        job = Job(path, requested.source.format, requested.spec, recipe, self.unpacked_limit, self.longest_text)
        try:
            return await asyncio.to_thread(ingest, job, folder, progress)
        except asyncio.CancelledError:
            progress.stop = True
            raise

    async def _download(self, requested: Import, folder: Path) -> Path:
        path = folder / "upload"
        await self.store.fetch_upload(requested.source.digest, path)
        if await asyncio.to_thread(file_digest, path) != requested.source.digest:
            raise InvalidArgument(
                "the stored upload does not have the digest of the file that was sent: it was damaged"
            )
        return path

    async def _store(self, dataset: str, part: PartFile) -> DatasetPart:
        stored = await self.store.store_part(dataset, part)
        failpoint("dataprep.part-stored")
        return stored

    async def _append(self, requested: Import, made: Ingested, parts: Sequence[DatasetPart]) -> Entry[Snapshot]:
        digests = [text for part in parts for text in (part.split, part.table, part.digest)]
        snapshot = Snapshot(
            snapshot_id=hash_of(requested.spec, *digests),
            dataset=requested.dataset,
            spec=requested.spec,
            parts=parts,
            rows=made.rows,
            splits=made.splits,
            quarantine_reasons=made.quarantine_reasons,
            columns=made.columns,
            source=requested.source,
        )

        def next_snapshot(known: Sequence[Entry[Snapshot]]) -> Snapshot | None:
            if known and known[-1].message.spec != requested.spec:
                raise Refused(
                    "an earlier import has fixed another spec for this dataset: leave the spec out, or repeat that one"
                )
            return None if known and known[-1].message.snapshot_id == snapshot.snapshot_id else snapshot

        return await self.store.snapshots(requested.dataset).append(
            next_snapshot, request_id=requested.request_id, actor=requested.actor
        )

    async def _end(self, requested: Import, ended: Import, made: Ingested | None = None) -> None:
        if not await self.store.end(ended):
            return
        metrics.IMPORTS.labels(metrics.ENDS[ended.state]).inc()
        metrics.SECONDS.observe(seconds_of(ended.end_time) - seconds_of(requested.create_time))
        if made:
            for outcome in metrics.OUTCOMES:
                metrics.ROWS.labels(outcome).inc(getattr(made.rows, outcome))


def _turn(requested: Import) -> tuple[int, str]:
    """Imports of one dataset end in this order."""
    return requested.create_time.ToNanoseconds(), requested.request_id


def _ended(requested: Import, entry: Entry[Snapshot], made: Ingested) -> Import:
    snapshot = to_snapshot(entry)
    own = snapshot.request_id == requested.request_id
    ended = Import(
        state=Import.STATE_SUCCEEDED if own else Import.STATE_UNCHANGED,
        rows_read=made.rows.read,
        snapshot_number=snapshot.number,
        snapshot_id=snapshot.snapshot_id,
        end_time=now(),
    )
    return extended(requested, ended)


def _refused(requested: Import, reason: str, rows_read: int) -> Import:
    return extended(requested, Import(state=Import.STATE_REFUSED, refusal=reason, rows_read=rows_read, end_time=now()))


def extended(requested: Import, more: Import) -> Import:
    """A copy of the import with the fields of `more`."""
    found = Import()
    found.CopyFrom(requested)
    found.MergeFrom(more)
    return found
