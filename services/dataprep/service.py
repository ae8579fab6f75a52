"""DatasetService: uploads of files, and reads of imports, datasets, snapshots and rows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.struct_pb2 import Struct

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, Snapshot, Source
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
from servicekit.blobs.parts import read_split
from servicekit.failpoints import failpoint
from servicekit.ids import check_name, check_request_id
from servicekit.paging import itself, message_page, page, trimmed
from servicekit.rpc.interceptor import actor
from servicekit.work.queue import Work
from services.dataprep import metrics
from services.dataprep.pipeline.ingest import QUARANTINE
from services.dataprep.pipeline.rules import SPLITS
from services.dataprep.reconcile import EndImport, ImportKey, extended
from services.dataprep.store import Store
from services.dataprep.uploads import Uploads
from services.dataprep.validation import check_same_import, complete_spec, format_of, header_of

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
"""Seconds between two reads of a watched import: they grow while nothing changes."""
PAGE_BYTES = 8 << 20
"""Most bytes of the rows of one page; a gRPC message may have 16 MiB."""


class DatasetService:
    """Answers the RPCs of DatasetService. An import is recorded here, and done by EndImport."""

    def __init__(self, store: Store, catalog: Catalog, uploads: Uploads, imports: EndImport, work: Work) -> None:
        self.store, self.catalog, self.uploads, self.imports, self.work = store, catalog, uploads, imports, work
        self._last_read: tuple[tuple[str, str], list[dict[str, Any]]] = (("", ""), [])

    async def ImportDataset(self, requests: AsyncIterator[ImportDatasetRequest]) -> ImportDatasetResponse:
        """Store the file, record the import, and answer before it has begun. Idempotent by request_id."""
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
        )
        key = ImportKey(dataset, request_id)
        async with self.uploads.receive(requests) as file:
            requested.source.digest, requested.source.size_bytes = file.digest, file.size_bytes
            if before is None:
                await self.store.store_upload(file.digest, file.path)
                failpoint("dataprep.upload-stored")
            recorded = before or await self._record(requested)
            check_same_import(recorded, requested)
            self.uploads.keep(key, file)
        self.work.add(key)
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
        datasets, token = await message_page(await self.store.names(), request, str, self.store.dataset)
        return ListDatasetsResponse(datasets=datasets, next_page_token=token)

    async def GetSnapshot(self, request: GetSnapshotRequest) -> GetSnapshotResponse:
        """One snapshot; number 0 is the newest. Raises NotFound."""
        return GetSnapshotResponse(snapshot=trimmed(await self.store.snapshot(request.dataset, request.number)))

    async def ListSnapshots(self, request: ListSnapshotsRequest) -> ListSnapshotsResponse:
        """A dataset's snapshots, newest first, page by page. Raises NotFound."""
        newest_first = await self.store.snapshots_newest_first(request.dataset)
        found, token = await message_page(newest_first, request, lambda one: str(one.number), itself)
        return ListSnapshotsResponse(snapshots=found, next_page_token=token)

    async def ListRows(self, request: ListRowsRequest) -> ListRowsResponse:
        """Rows of one split, page by page; a page holds fewer rows than asked for if they are large. Raises NotFound."""
        split = request.split or SPLITS[0]
        if split not in (*SPLITS, QUARANTINE):
            raise InvalidArgument(f"split is {split!r}: use {', '.join(SPLITS)} or {QUARANTINE}", field="split")
        snapshot = await self.store.snapshot(request.dataset, request.number)
        numbered = list(enumerate(await self._rows(snapshot, split)))

        def name(row: tuple[int, object]) -> str:
            return f"{snapshot.number}/{row[0]}"

        found, token = page(numbered, request.page_size, request.page_token, name)
        response, size = ListRowsResponse(next_page_token=token), 0
        for position, (_, row) in enumerate(found):
            made = Struct()
            made.update(row)
            size += made.ByteSize()
            if position and size > PAGE_BYTES:
                response.next_page_token = page(numbered, position, request.page_token, name)[1]
                break
            response.rows.append(made)
        return response

    async def _rows(self, snapshot: Snapshot, split: str) -> list[dict[str, Any]]:
        """The rows of a split. The last split that was read is cached, because its next page usually follows."""
        name = (snapshot.snapshot_id, split)
        if self._last_read[0] != name:
            self._last_read = (name, await read_split(self.store.blobs, snapshot, split))
        return self._last_read[1]

    # --- importing

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

    async def _is_fixed(self, dataset: str) -> bool:
        """False after a refused first import: otherwise a mistake in its spec would block the dataset's name for ever."""
        return bool(await self.store.snapshots(dataset).newest() or await self.store.pending(dataset))

    async def _record(self, requested: Import) -> Import:
        """Record the dataset's spec, then the import. The import of this request_id that came first is the answer."""
        await self.store.specs(requested.dataset).append(
            lambda known: None if known and known[-1].message == requested.spec else requested.spec,
            request_id=requested.request_id,
            actor=requested.actor,
        )
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
        """The import as it is now. Only the replica that runs it knows that it runs, and how many rows it has read."""
        ended = await self.store.outcome(requested.dataset, requested.request_id)
        progress = self.imports.running.get(ImportKey(requested.dataset, requested.request_id))
        if ended or not progress:
            return ended or requested
        return extended(requested, Import(state=Import.STATE_RUNNING, rows_read=progress.rows_read))
