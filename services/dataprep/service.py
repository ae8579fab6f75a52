"""DatasetService: uploads of files, and reads of imports, datasets, snapshots and rows."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, Source
from millstream.dataset.v1.dataset_service_pb2 import (
    GetDatasetRequest,
    GetDatasetResponse,
    GetImportRequest,
    GetImportResponse,
    GetSnapshotRequest,
    GetSnapshotResponse,
    ImportDatasetRequest,
    ImportDatasetResponse,
    ImportHeader,
    ListDatasetsRequest,
    ListDatasetsResponse,
    ListRowsRequest,
    ListRowsResponse,
    ListSnapshotsRequest,
    ListSnapshotsResponse,
    WatchImportRequest,
    WatchImportResponse,
)
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import FailedPrecondition, InvalidArgument, NotFound
from millstream.timestamps import now
from recipekit.catalog import Catalog
from servicekit.facts.ledger import Entry
from servicekit.failpoints import failpoint
from servicekit.files import as_unavailable
from servicekit.ids import check_name, check_request_id
from servicekit.paging import message_page, page_size, trimmed
from servicekit.rpc.caller import actor
from servicekit.work.queue import Work
from services.dataprep import metrics
from services.dataprep.outcomes import extended
from services.dataprep.pipeline.ingest import QUARANTINE
from services.dataprep.pipeline.rules import SPLITS
from services.dataprep.reconcile import EndImport, ImportKey
from services.dataprep.rows import RowPages, place_of
from services.dataprep.store import Store
from services.dataprep.uploads import Uploads
from services.dataprep.validation import (
    check_same_import,
    complete_spec,
    format_of,
    header_of,
    mode_of,
    which_mode,
)

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two reads of a watched import: they grow while nothing changes."""


class DatasetService:
    """Answers the RPCs of DatasetService. An import is recorded here, and done by EndImport."""

    def __init__(self, store: Store, catalog: Catalog, uploads: Uploads, imports: EndImport, work: Work) -> None:
        self.store, self.catalog, self.uploads, self.imports, self.work = store, catalog, uploads, imports, work
        self.rows = RowPages(store.blobs, uploads.folder / "rows")

    async def ImportDataset(self, requests: AsyncIterator[ImportDatasetRequest]) -> ImportDatasetResponse:
        """Store the file, record the import, and answer before it has begun. Idempotent by request_id."""
        with self.uploads.admit(), as_unavailable(self.uploads.folder, "point MILLSTREAM_STATE at a folder that works"):
            recorded = await self._receive(self.uploads.paced(requests))
        await self.work.receive(self.store.fact_of(recorded))
        return ImportDatasetResponse(dataset_import=trimmed(await self._current(recorded)))

    async def GetImport(self, request: GetImportRequest) -> GetImportResponse:
        """One import, with its progress if this replica runs it. Raises NotFound."""
        return GetImportResponse(dataset_import=trimmed(await self._import(request)))

    async def WatchImport(self, request: WatchImportRequest) -> AsyncIterator[WatchImportResponse]:
        """The import now, and again at each change until it has ended. Raises NotFound."""
        last, pause = Import(), FIRST_PAUSE
        while True:
            found = await self._import(request)
            if found != last:
                pause = FIRST_PAUSE if found.state != last.state else pause
                yield WatchImportResponse(dataset_import=trimmed(found))
            last = found
            if found.state in metrics.ENDS:
                return
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.3)

    async def GetDataset(self, request: GetDatasetRequest) -> GetDatasetResponse:
        """One dataset, with its spec. Raises NotFound."""
        return GetDatasetResponse(dataset=trimmed(await self.store.dataset(request.dataset)))

    async def ListDatasets(self, request: ListDatasetsRequest) -> ListDatasetsResponse:
        """Datasets by name, page by page."""
        datasets, token = await message_page(await self.store.names(), request, str, self.store.listed_dataset)
        return ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def GetSnapshot(self, request: GetSnapshotRequest) -> GetSnapshotResponse:
        """One snapshot; number 0 is the newest. Raises NotFound."""
        return GetSnapshotResponse(snapshot=trimmed(await self.store.snapshot(request.dataset, request.number)))

    async def ListSnapshots(self, request: ListSnapshotsRequest) -> ListSnapshotsResponse:
        """A dataset's snapshots, newest first, page by page. Raises NotFound."""
        listed = partial(self.store.listed_snapshot, request.dataset)
        found, token = await message_page(await self.store.snapshot_numbers(request.dataset), request, str, listed)
        return ListSnapshotsResponse(snapshots=found, next_page_token=token)

    async def ListRows(self, request: ListRowsRequest) -> ListRowsResponse:
        """Rows of one split, page by page; a page holds fewer rows than asked for if they are large. Raises NotFound."""
        split = request.split or SPLITS[0]
        if split not in (*SPLITS, QUARANTINE):
            raise InvalidArgument(f"split is {split!r}: use {', '.join(SPLITS)} or {QUARANTINE}", field="split")
        size, place = page_size(request.page_size), place_of(request.page_token, request.number, split)
        return await self.rows.page(await self.store.snapshot(request.dataset, place.number), place, size)

    # --- importing

    async def _receive(self, requests: AsyncIterator[ImportDatasetRequest]) -> Import:
        header = await header_of(requests)
        dataset, request_id = check_name(header.dataset, "dataset"), check_request_id(header.request_id)
        before = await self._recorded(dataset, request_id)
        requested = Import(
            request_id=request_id,
            dataset=dataset,
            spec=await self._spec(header, before),
            source=Source(file_name=header.file_name, format=format_of(header)),
            state=Import.STATE_PENDING,
            create_time=now(),
            actor=actor(),
            mode=mode_of(header),
        )
        if before is None:
            await self._check_mode(requested)
        async with self.uploads.receive(requests) as file:
            requested.source.digest, requested.source.size_bytes = file.digest, file.size_bytes
            if before is None:
                await self.store.store_upload(file.digest, file.path)
                failpoint("dataprep.upload-stored")
            recorded = before or await self._record(requested)
            check_same_import(recorded, requested)
            self.uploads.keep(ImportKey(dataset, request_id), file)
        return recorded

    async def _recorded(self, dataset: str, request_id: str) -> Import | None:
        try:
            return await self.store.requested(dataset, request_id)
        except NotFound:
            return None

    async def _spec(self, header: ImportHeader, before: Import | None) -> DatasetSpec:
        """The spec of this import: the header's, else the dataset's. Raises FailedPrecondition where they differ."""
        given = complete_spec(header.spec, self.catalog) if header.HasField("spec") else None
        if before:
            return given or before.spec
        try:
            own = (await self.store.dataset(header.dataset)).spec
        except NotFound:
            if given is None:
                raise InvalidArgument(
                    f"spec is missing: the first import of {header.dataset} must name a recipe, or send an empty spec to "
                    "keep the columns as found",
                    field="spec",
                ) from None
            return given
        if given is None or given == own:
            return own
        if not await self._is_fixed(header.dataset):
            return given
        if header.spec == DatasetSpec():
            return own
        raise FailedPrecondition(
            f"the spec of {header.dataset} was fixed by its first import (recipe {own.recipe or 'none'!r}): "
            "leave it out, repeat it, or import into a new dataset",
            field="spec",
            dataset=header.dataset,
        )

    async def _check_mode(self, requested: Import) -> None:
        """Refuse, before the upload, an import that does not say what becomes of the rows that the dataset has."""
        if requested.mode == Import.MODE_UNSPECIFIED:
            with suppress(NotFound):  # its first import
                if number := (await self.store.dataset(requested.dataset)).newest_number:
                    text = which_mode(requested.dataset, number)
                    raise FailedPrecondition(text, field="mode", dataset=requested.dataset)

    async def _is_fixed(self, dataset: str) -> bool:
        """False after a refused first import: otherwise a mistake in its spec would block the dataset's name for ever."""
        return await self.store.snapshots(dataset).has(1) or bool(await self.store.pending(dataset))

    async def _record(self, requested: Import) -> Import:
        """Record the dataset's spec, then the import. The import of this request_id that came first is the answer."""

        async def change(newest: Entry[DatasetSpec] | None) -> DatasetSpec | None:
            return None if newest and newest.message == requested.spec else requested.spec

        specs = self.store.specs(requested.dataset)
        await specs.append(change, request_id=requested.request_id, actor=requested.actor)
        failpoint("dataprep.spec-recorded")
        recorded = await self.store.record(requested)
        failpoint("dataprep.import-recorded")
        return recorded

    # --- reading

    async def _import(self, request: GetImportRequest | WatchImportRequest) -> Import:
        check_name(request.dataset, "dataset")
        if not request.request_id:
            raise InvalidArgument("request_id is missing: take it from the answer of ImportDataset", field="request_id")
        check_request_id(request.request_id)
        return await self._current(await self.store.requested(request.dataset, request.request_id))

    async def _current(self, requested: Import) -> Import:
        """The import as it is now. Only the replica that tries it knows that it runs, how many rows it has read, and why it
        waits."""
        ended = await self.store.outcome(requested.dataset, requested.request_id)
        if ended:
            return ended
        key = ImportKey(requested.dataset, requested.request_id)
        if progress := self.imports.running.get(key):
            return extended(requested, Import(state=Import.STATE_RUNNING, rows_read=progress.rows_read))
        return extended(requested, Import(waits_for=self.imports.waiting.get(key, "")))
