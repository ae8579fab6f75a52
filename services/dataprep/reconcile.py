"""Every recorded import ends: succeeded with a snapshot, unchanged, or refused."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import Conflict, FailedPrecondition, InvalidArgument, MillstreamError, NotFound
from millstream.files import file_digest
from millstream.timestamps import seconds_of
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.spec import Spec
from recipekit.text_limits import LONGEST_TEXT
from servicekit.blobs.parts import PartFile, download_part
from servicekit.facts.ledger import Entry, intact
from servicekit.failpoints import failpoint
from servicekit.files import unavailable
from servicekit.ids import hash_of
from servicekit.incidents import Incident
from servicekit.pools import Pool
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler, Work
from services.dataprep import metrics
from services.dataprep.attempts import MOST_DEATHS, Attempts
from services.dataprep.outcomes import ended, refused
from services.dataprep.pipeline.ingest import QUARANTINE, EarlierPart, ImportProgress, Ingested, Job, ingest
from services.dataprep.pipeline.labels import compared
from services.dataprep.pipeline.read import Refused
from services.dataprep.store import Store, to_snapshot
from services.dataprep.turns import TURN_SECONDS, Turns
from services.dataprep.uploads import Uploads
from services.dataprep.validation import which_mode

BEHIND_SECONDS, LONGEST_BEHIND_SECONDS = 2.0, 60.0
"""Seconds until an import asks again whether another replica has ended those before it: for each of them, and at most."""
ATTEMPT_SECONDS = 0.5
"""Seconds between two reads of an attempt that another replica works on."""
MACHINE_SECONDS = 30.0
"""Seconds until the next try after a trouble of this machine, such as a full disk."""
_ADVICE = "point MILLSTREAM_STATE at a folder that works"
_DEADLY = (
    f"{MOST_DEATHS} processes died while they worked on it: see the log and the memory of dataprep, "
    "then import less, or give it more memory, with a new request_id"
)


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
        self,
        store: Store,
        catalog: Catalog,
        uploads: Uploads,
        work: Work,
        unpacked_limit: int,
        slots: int = 2,
        lease_seconds: float = 10.0,
        longest_text: int = LONGEST_TEXT,
    ) -> None:
        """`slots` files are read at once, in threads of their own; the Work of this reconciler has as many workers."""
        self.store, self.catalog, self.uploads, self.work = store, catalog, uploads, work
        self.unpacked_limit, self.lease_seconds, self.longest_text = unpacked_limit, lease_seconds, longest_text
        self.running: dict[ImportKey, ImportProgress] = {}
        """The imports that this replica is running."""
        self.waiting: dict[ImportKey, str] = {}
        """Why this replica could not do an import that it tried, and what to do; it tries again by itself."""
        self._machine = Incident("imports")
        self._attempts: dict[ImportKey, Attempts] = {}
        self._threads = Pool("imports", slots)
        self._turns = Turns()

    @override
    async def pending(self) -> AsyncIterator[ImportKey]:
        for dataset in await self.store.names():
            for request_id in await self.store.compare(dataset):
                yield ImportKey(dataset, request_id)

    @override
    async def reconcile(self, key: ImportKey) -> float | None:
        requested = await self.store.requested(key.dataset, key.request_id)
        if await self.store.outcome(key.dataset, key.request_id):
            await self._forget(key)
            return None
        try:
            if before := await self.store.imports_before(requested):
                self.waiting.pop(key, None)
                return min(before * BEHIND_SECONDS, LONGEST_BEHIND_SECONDS)
            return await self._attempt(key, requested)
        except UnknownRecipe as error:
            return self._wait(key, f"{error}: deploy a dataprep that has the recipe, then the import goes on")
        except MemoryError:
            return self._wait(key, "this machine has no memory left: free some, then the import goes on")
        except OSError as error:
            return self._wait(key, f"{unavailable(error, self.uploads.folder, _ADVICE)}, then the import goes on")
        except MillstreamError as error:
            self.waiting[key] = str(error)
            raise

    @override
    async def end(self, key: ImportKey, error: MillstreamError) -> bool:
        try:
            requested = await self.store.requested(key.dataset, key.request_id)
        except NotFound:
            return True  # a key may be listed that was never stored (see Blobs.list)
        text = f"the import failed: {error}. See the log of dataprep, then import again with a new request_id"
        await self._end(requested, refused(requested, text))
        await self._forget(key)
        return True

    def _wait(self, key: ImportKey, problem: str) -> float:
        """The machine cannot do the import now, which says nothing against its file: it is tried again, slowly."""
        self.waiting[key] = problem
        self._machine.report(problem)
        return MACHINE_SECONDS

    async def _forget(self, key: ImportKey) -> None:
        """The import has ended: the next one of its dataset begins."""
        self.uploads.drop(key)
        self._attempts.pop(key, None)
        self.waiting.pop(key, None)
        self._turns.leave(key)
        for following in (await self.store.pending(key.dataset))[:1]:
            self.work.add(ImportKey(following.dataset, following.request_id))

    async def _attempt(self, key: ImportKey, requested: Import) -> float | None:
        """Claim an attempt and do the import, unless another replica does or too many processes died of it."""
        recipe = self.catalog.spec(requested.spec.recipe) if requested.spec.recipe else None
        attempts = self._attempts.setdefault(
            key, Attempts(self.store.blobs, key.dataset, key.request_id, self.lease_seconds)
        )
        self._turns.leave(key)
        status = await attempts.status()
        if status.in_progress:
            return ATTEMPT_SECONDS
        if status.deaths >= MOST_DEATHS:
            await self._end(requested, refused(requested, _DEADLY))
            await self._forget(key)
            return None
        if not self._turns.take(key, suspect=status.deaths > 0):
            return TURN_SECONDS
        with self._turns.taken(key):
            number = await attempts.begin(status.newest)
            if not number:
                return ATTEMPT_SECONDS
            async with attempts.holding(number):
                failpoint("dataprep.claimed")
                await self._import(key, requested, recipe)
        self._machine.resolve()
        await self._forget(key)
        return None

    async def _import(self, key: ImportKey, requested: Import, recipe: Spec | None) -> None:
        self.waiting.pop(key, None)
        progress = self.running.setdefault(key, ImportProgress())
        try:
            with self.uploads.work_folder() as folder:
                before = await self._before(requested)
                made = await self._ingest(key, requested, recipe, before, folder, progress)
                parts = [await self._store(requested.dataset, part) for part in made.parts]
            entry = await self._append(requested, before, made, parts)
            failpoint("dataprep.ledger-appended")
            await self._end(requested, ended(requested, before, entry, made), made)
        except Refused as refusal:
            await self._end(requested, refused(requested, str(refusal), progress.rows_read))
        finally:
            self.running.pop(key, None)

    async def _before(self, requested: Import) -> Snapshot | None:
        """The snapshot that the import changes: the newest, or the one before its own, of a try that was cut short."""
        snapshots = self.store.snapshots(requested.dataset)
        own = (await snapshots.index()).number_of(requested.request_id)
        number = own - 1 if own else await snapshots.count()
        return to_snapshot(intact(await snapshots.entry(number))) if number else None

    async def _ingest(
        self,
        key: ImportKey,
        requested: Import,
        recipe: Spec | None,
        before: Snapshot | None,
        folder: Path,
        progress: ImportProgress,
    ) -> Ingested:
        path = self.uploads.path(key) or await self._download(requested, folder)
        append = requested.mode == Import.MODE_APPEND
        earlier = await self._earlier(before, folder, needed=append) if before else []
        job = Job(
            path,
            requested.source.format,
            requested.spec,
            recipe,
            self.unpacked_limit,
            earlier=earlier,
            append=append,
            longest_text=self.longest_text,
        )
        try:
            return await self._threads.run(ingest, job, folder, progress)
        except asyncio.CancelledError:
            progress.stop = True
            raise

    async def _earlier(self, before: Snapshot, folder: Path, *, needed: bool) -> list[EarlierPart]:
        """The rows of the snapshot before, on disk. Without `needed`, a part that is damaged or gone is left out."""
        found = []
        for number, part in enumerate(before.parts):
            path = folder / f"before-{number}"
            if part.split == QUARANTINE or part.table not in ("", "rows"):
                continue
            try:
                await download_part(self.store.blobs, part, path, self._threads)
                found.append(EarlierPart(part.split, path))
            except (NotFound, InvalidArgument):
                if needed:
                    raise FailedPrecondition(
                        f"the {part.split} rows of snapshot {before.number} ({part.key}) are damaged or gone: "
                        "import the whole dataset with `--replace`"
                    ) from None
        return found

    async def _download(self, requested: Import, folder: Path) -> Path:
        path = folder / "upload"
        await self.store.fetch_upload(requested.source.digest, path)
        if await self._threads.run(file_digest, path) != requested.source.digest:
            raise FailedPrecondition(
                "the stored upload does not have the digest of the file that was sent: it was damaged"
            )
        return path

    async def _store(self, dataset: str, part: PartFile) -> DatasetPart:
        stored = await self.store.store_part(dataset, part)
        failpoint("dataprep.part-stored")
        return stored

    async def _append(
        self, requested: Import, before: Snapshot | None, made: Ingested, parts: Sequence[DatasetPart]
    ) -> Entry[Snapshot]:
        kept = [part for part in parts if part.split != QUARANTINE]
        digests = [text for part in kept for text in (part.split, part.table, part.digest)]
        snapshot = Snapshot(
            snapshot_id=hash_of(requested.spec, *digests),
            dataset=requested.dataset,
            spec=requested.spec,
            parts=parts,
            rows=made.rows,
            splits=made.splits,
            quarantine_reasons=made.quarantine_reasons,
            columns=made.columns,
            labels=compared(made.labels, before) if made.labels else None,
            source=requested.source,
        )
        snapshot.source.dialect = made.dialect

        async def next_snapshot(newest: Entry[Snapshot] | None) -> Snapshot | None:
            if newest and newest.message.spec != requested.spec:
                raise Refused(
                    "an earlier import has fixed another spec for this dataset: leave the spec out, or repeat that one"
                )
            if newest and newest.number != (before.number if before else 0):
                raise Conflict(f"another import into {requested.dataset} has ended meanwhile: this one begins again")
            if newest and newest.message.snapshot_id == snapshot.snapshot_id:
                return None
            if newest and requested.mode == Import.MODE_UNSPECIFIED:
                raise Refused(which_mode(requested.dataset, newest.number))
            return snapshot

        return await self.store.snapshots(requested.dataset).append(
            next_snapshot, request_id=requested.request_id, actor=requested.actor
        )

    async def _end(self, requested: Import, outcome: Import, made: Ingested | None = None) -> None:
        if not await self.store.end(outcome):
            return
        metrics.IMPORTS.labels(metrics.ENDS[outcome.state]).inc()
        metrics.SECONDS.observe(seconds_of(outcome.end_time) - seconds_of(requested.create_time))
        if made:
            metrics.ROWS.labels("kept").inc(made.rows.kept - made.rows.carried)
            metrics.ROWS.labels("duplicate").inc(made.rows.duplicate)
            metrics.ROWS.labels("quarantined").inc(made.rows.quarantined)
