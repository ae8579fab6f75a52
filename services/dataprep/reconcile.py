"""What should be: every import that was asked for ends, in a snapshot, unchanged or refused."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.files import file_digest
from millstream.timestamps import now, seconds_of
from recipekit.catalog import Catalog, UnknownRecipe
from servicekit.facts.ledger import Entry
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.work.keys import Key
from services.dataprep import metrics
from services.dataprep.pipeline.ingest import ImportProgress, Ingested, Job, PartFile, ingest
from services.dataprep.pipeline.read import Refused
from services.dataprep.store import Store, to_snapshot

TURN_SECONDS = 0.1
"""How long an import waits before it looks again whether its turn has come."""


@dataclass(frozen=True, order=True)
class ImportKey(Key):
    """One import."""

    kind = "import"
    dataset: str
    request_id: str


class EndImport:
    """Reads the upload, stores the parts, appends to the dataset's ledger, and says how it ended, in this order.

    Each step does nothing new when it is done again: parts are named by their digest, the ledger knows the request_id,
    the outcome is put if absent. So it may die between any two, or be done by two replicas at once.
    """

    kind = ImportKey.kind

    def __init__(self, store: Store, catalog: Catalog, unpacked_limit: int) -> None:
        self.store, self.catalog, self.unpacked_limit = store, catalog, unpacked_limit
        self.running: dict[tuple[str, str], ImportProgress] = {}
        """What this replica is at."""

    async def pending(self) -> AsyncIterator[ImportKey]:
        for dataset in await self.store.names():
            for request_id in await self.store.pending(dataset):
                yield ImportKey(dataset, request_id)

    async def reconcile(self, key: ImportKey) -> float | None:
        dataset, request_id = key.dataset, key.request_id
        wanted = await self.store.requested(dataset, request_id)
        if await self.store.outcome(dataset, request_id):
            return None
        if await self._waits(wanted):
            return TURN_SECONDS
        progress = self.running.setdefault((dataset, request_id), ImportProgress())
        try:
            with tempfile.TemporaryDirectory(prefix="millstream-import-", ignore_cleanup_errors=True) as folder:
                made = await self._ingest(wanted, Path(folder), progress)
                parts = [await self._store(dataset, part) for part in made.parts]
            entry = await self._append(wanted, made, parts)
            failpoint("dataprep.ledger-appended")
            await self._end(wanted, _ended(wanted, entry, made), made)
        except Refused as refusal:
            await self._end(wanted, _refused(wanted, str(refusal), progress.rows_read))
        finally:
            self.running.pop((dataset, request_id), None)
        return None

    async def end(self, key: ImportKey, error: MillstreamError) -> None:
        dataset, request_id = key.dataset, key.request_id
        try:
            wanted = await self.store.requested(dataset, request_id)
        except NotFound:
            return  # nobody asked for it: a listing made it up (see Blobs.list)
        text = f"the import failed: {error}. The log of dataprep says more; import again with a new request_id"
        await self._end(wanted, _refused(wanted, text, 0))

    async def _waits(self, wanted: Import) -> bool:
        """Imports of one dataset end in the order in which they were asked for, as the newest snapshot is its state."""
        for request_id in await self.store.pending(wanted.dataset):
            other = await self.store.requested(wanted.dataset, request_id)
            if _turn(other) < _turn(wanted):
                return True
        return False

    async def _ingest(self, wanted: Import, folder: Path, progress: ImportProgress) -> Ingested:
        try:
            recipe = self.catalog.spec(wanted.spec.recipe) if wanted.spec.recipe else None
        except UnknownRecipe as error:
            raise Refused(f"{error}: its recipe went away since the import was asked for") from None
        path = folder / "upload"
        await self.store.fetch_upload(wanted.source.digest, path)
        if await asyncio.to_thread(file_digest, path) != wanted.source.digest:
            raise InvalidArgument("the stored upload is not what was sent: it was damaged")
        job = Job(path, wanted.source.format, wanted.spec, recipe, self.unpacked_limit)
        try:
            return await asyncio.to_thread(ingest, job, folder, progress)
        except asyncio.CancelledError:
            progress.stop = True
            raise

    async def _store(self, dataset: str, part: PartFile) -> DatasetPart:
        stored = await self.store.store_part(dataset, part)
        failpoint("dataprep.part-stored")
        return stored

    async def _append(self, wanted: Import, made: Ingested, parts: Sequence[DatasetPart]) -> Entry[Snapshot]:
        digests = [text for part in parts for text in (part.split, part.table, part.digest)]
        snapshot = Snapshot(
            snapshot_id=hash_of(wanted.spec, *digests),
            dataset=wanted.dataset,
            spec=wanted.spec,
            parts=parts,
            rows=made.rows,
            splits=made.splits,
            quarantine_reasons=made.quarantine_reasons,
            columns=made.columns,
            source=wanted.source,
        )

        def next_snapshot(known: Sequence[Entry[Snapshot]]) -> Snapshot | None:
            if known and known[-1].message.spec != wanted.spec:
                raise Refused(
                    "another import has fixed another spec for this dataset: leave the spec out, or repeat it"
                )
            return None if known and known[-1].message.snapshot_id == snapshot.snapshot_id else snapshot

        return await self.store.snapshots(wanted.dataset).append(
            next_snapshot, request_id=wanted.request_id, actor=wanted.actor
        )

    async def _end(self, wanted: Import, ended: Import, made: Ingested | None = None) -> None:
        if not await self.store.end(ended):
            return
        metrics.IMPORTS.labels(metrics.ENDS[ended.state]).inc()
        metrics.SECONDS.observe(seconds_of(ended.end_time) - seconds_of(wanted.create_time))
        if made:
            for outcome in metrics.OUTCOMES:
                metrics.ROWS.labels(outcome).inc(getattr(made.rows, outcome))


def _turn(wanted: Import) -> tuple[int, str]:
    return wanted.create_time.ToNanoseconds(), wanted.request_id


def _ended(wanted: Import, entry: Entry[Snapshot], made: Ingested) -> Import:
    snapshot = to_snapshot(entry)
    own = snapshot.request_id == wanted.request_id
    ended = Import(
        state=Import.STATE_SUCCEEDED if own else Import.STATE_UNCHANGED,
        rows_read=made.rows.read,
        snapshot_number=snapshot.number,
        snapshot_id=snapshot.snapshot_id,
        end_time=now(),
    )
    return _over(wanted, ended)


def _refused(wanted: Import, why: str, rows_read: int) -> Import:
    return _over(wanted, Import(state=Import.STATE_REFUSED, refusal=why, rows_read=rows_read, end_time=now()))


def _over(wanted: Import, more: Import) -> Import:
    ended = Import()
    ended.CopyFrom(wanted)
    ended.MergeFrom(more)
    return ended
