"""DatasetService: files come in, imports and snapshots can be looked at."""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from google.protobuf.struct_pb2 import Struct

from millstream.dataset.v1.dataset_pb2 import (
    FORMAT_CSV,
    FORMAT_JSON_LINES,
    FORMAT_UNSPECIFIED,
    DatasetSpec,
    Format,
    Snapshot,
    Source,
    SplitSpec,
)
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
from servicekit.paging import page
from servicekit.rpc.interceptor import actor
from servicekit.work.queue import Work
from services.dataprep import metrics
from services.dataprep.pipeline.ingest import QUARANTINE
from services.dataprep.pipeline.rules import SPLITS
from services.dataprep.reconcile import EndImport, ImportKey
from services.dataprep.store import Store

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
PAGE_BYTES = 8 << 20
"""What the rows of one page may weigh; a message may be 16 MiB."""
DEFAULT_SHARE = 0.1
ENDINGS = {
    (".jsonl", ".jsonl.gz"): FORMAT_JSON_LINES,
    (".csv", ".csv.gz"): FORMAT_CSV,
}


class DatasetService:
    def __init__(self, store: Store, catalog: Catalog, imports: EndImport, work: Work, upload_limit: int) -> None:
        self.store, self.catalog, self.imports, self.work = store, catalog, imports, work
        self.upload_limit = upload_limit
        self._last_read: tuple[tuple[str, str], list[dict[str, Any]]] = (("", ""), [])

    async def ImportDataset(self, requests: AsyncIterator[ImportDatasetRequest]) -> ImportDatasetResponse:
        header = await _header(requests)
        dataset, request_id = check_name(header.dataset, "dataset"), check_request_id(header.request_id)
        before = await self._before(dataset, request_id)
        wanted = Import(
            request_id=request_id,
            dataset=dataset,
            spec=await self._spec(header, before),
            source=Source(file_name=header.file_name, format=_format(header)),
            state=Import.STATE_PENDING,
            create_time=now(),
            actor=actor(),
        )
        with tempfile.TemporaryDirectory(prefix="millstream-upload-") as folder:
            path = Path(folder) / "upload"
            wanted.source.digest, wanted.source.size_bytes = await self._receive(requests, path)
            if before is None:
                await self.store.store_upload(wanted.source.digest, path)
                failpoint("dataprep.upload-stored")
        recorded = before or await self._record(wanted)
        if not _same(recorded, wanted):
            raise InvalidArgument(
                f"request_id {request_id} was used before for another file or spec of {dataset}: send a new one",
                field="request_id",
            )
        self.work.add(ImportKey(dataset, request_id))
        return ImportDatasetResponse(dataset_import=await self._now(recorded))

    async def GetImport(self, request: GetImportRequest) -> GetImportResponse:
        return GetImportResponse(dataset_import=await self._import(request))

    async def WatchImport(self, request: WatchImportRequest) -> AsyncIterator[WatchImportResponse]:
        last, pause = Import(), FIRST_PAUSE
        while True:
            found = await self._import(request)
            if found != last:
                pause = FIRST_PAUSE if found.state != last.state else pause
                yield WatchImportResponse(dataset_import=found)
            last = found
            if found.state in metrics.ENDS:
                return
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 1.3)

    async def GetDataset(self, request: GetDatasetRequest) -> GetDatasetResponse:
        return GetDatasetResponse(dataset=await self.store.dataset(request.dataset))

    async def ListDatasets(self, request: ListDatasetsRequest) -> ListDatasetsResponse:
        names, token = page(await self.store.names(), request.page_size, request.page_token, str)
        response = ListDatasetsResponse(next_page_token=token)
        for name in names:
            with suppress(NotFound):  # its first object was never put in the end (see Blobs.list)
                response.datasets.append(await self.store.dataset(name))
        return response

    async def GetSnapshot(self, request: GetSnapshotRequest) -> GetSnapshotResponse:
        return GetSnapshotResponse(snapshot=await self.store.snapshot(request.dataset, request.number))

    async def ListSnapshots(self, request: ListSnapshotsRequest) -> ListSnapshotsResponse:
        newest_first = await self.store.snapshots_newest_first(request.dataset)
        found, token = page(newest_first, request.page_size, request.page_token, lambda one: str(one.number))
        return ListSnapshotsResponse(snapshots=found, next_page_token=token)

    async def ListRows(self, request: ListRowsRequest) -> ListRowsResponse:
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
        """The rows of a split; the last one is kept, since pages are asked for one after the other."""
        name = (snapshot.snapshot_id, split)
        if self._last_read[0] != name:
            self._last_read = (name, await read_split(self.store.blobs, snapshot, split))
        return self._last_read[1]

    # --- importing

    async def _before(self, dataset: str, request_id: str) -> Import | None:
        try:
            return await self.store.requested(dataset, request_id)
        except NotFound:
            return None

    async def _spec(self, header: ImportHeader, before: Import | None) -> DatasetSpec:
        """The spec of this import: what the header says, or what the dataset has. Raises where they differ."""
        asked = self._checked(header.spec) if header.HasField("spec") else None
        if before:
            return asked or before.spec
        try:
            own = (await self.store.dataset(header.dataset)).spec
        except NotFound:
            if asked is None:
                raise InvalidArgument(
                    f"spec is missing: the first import of {header.dataset} says the recipe, or has an empty spec to keep "
                    "the columns as found",
                    field="spec",
                ) from None
            return asked
        if asked is None or asked == own:
            return own
        if not await self._is_fixed(header.dataset):
            return asked
        if header.spec == DatasetSpec():
            return own
        raise FailedPrecondition(
            f"the spec of {header.dataset} was fixed by its first import (recipe {own.recipe or 'none'!r}): "
            "leave it out, repeat it, or import into a new dataset",
            field="spec",
            dataset=header.dataset,
        )

    async def _is_fixed(self, dataset: str) -> bool:
        """A first import that was refused fixes nothing, or a slip in the spec would cost the dataset its name."""
        return bool(await self.store.snapshots(dataset).newest() or await self.store.pending(dataset))

    def _checked(self, spec: DatasetSpec) -> DatasetSpec:
        if spec.recipe and spec.recipe not in self.catalog.names():
            raise InvalidArgument(
                f"no recipe is named {spec.recipe!r}; there are: {', '.join(self.catalog.names())}", field="spec.recipe"
            )
        checked = DatasetSpec()
        checked.CopyFrom(spec)
        # Both messages are always there, so that equal specs are equal bytes.
        checked.cleaning.SetInParent()
        checked.split.CopyFrom(_checked_split(spec.split))
        return checked

    async def _receive(self, requests: AsyncIterator[ImportDatasetRequest], path: Path) -> tuple[str, int]:
        """Write the chunks to the file, and return their sha256 and size."""
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            async for request in requests:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidArgument("only the first message is a header: send chunks after it", field="header")
                size += len(request.chunk)
                if size > self.upload_limit:
                    raise InvalidArgument(
                        f"the file is larger than {self.upload_limit:,} bytes: pack it with gzip, import less, "
                        "or raise MILLSTREAM_UPLOAD_LIMIT_BYTES",
                        field="chunk",
                    )
                digest.update(request.chunk)
                file.write(request.chunk)
        metrics.UPLOADED.inc(size)
        return digest.hexdigest(), size

    async def _record(self, wanted: Import) -> Import:
        """Say what the dataset's spec is, then that there is an import to be done."""
        await self.store.specs(wanted.dataset).append(
            lambda known: None if known and known[-1].message == wanted.spec else wanted.spec,
            request_id=wanted.request_id,
            actor=wanted.actor,
        )
        failpoint("dataprep.spec-recorded")
        recorded = await self.store.record(wanted)
        failpoint("dataprep.import-recorded")
        return recorded

    # --- looking

    async def _import(self, request: GetImportRequest | WatchImportRequest) -> Import:
        check_name(request.dataset, "dataset")
        if not request.request_id:
            raise InvalidArgument("request_id is missing: ImportDataset answers it", field="request_id")
        check_request_id(request.request_id)
        return await self._now(await self.store.requested(request.dataset, request.request_id))

    async def _now(self, wanted: Import) -> Import:
        """The import as it is now; how many rows were read is known only where it runs."""
        ended = await self.store.outcome(wanted.dataset, wanted.request_id)
        progress = self.imports.running.get((wanted.dataset, wanted.request_id))
        if ended or not progress:
            return ended or wanted
        running = Import(state=Import.STATE_RUNNING, rows_read=progress.rows_read)
        found = Import()
        found.CopyFrom(wanted)
        found.MergeFrom(running)
        return found


async def _header(requests: AsyncIterator[ImportDatasetRequest]) -> ImportHeader:
    first = await anext(aiter(requests), ImportDatasetRequest())
    if first.WhichOneof("part") != "header":
        raise InvalidArgument("the first message must be the header: dataset, file_name and spec", field="header")
    return first.header


def _format(header: ImportHeader) -> Format.ValueType:
    if header.format in (FORMAT_JSON_LINES, FORMAT_CSV):
        return header.format
    if header.format != FORMAT_UNSPECIFIED:
        raise InvalidArgument(f"format {header.format} is unknown: use JSON_LINES or CSV", field="format")
    for endings, file_format in ENDINGS.items():
        if header.file_name.lower().endswith(endings):
            return file_format
    raise InvalidArgument(
        f"file_name {header.file_name[:100]!r} tells no format: use .jsonl, .jsonl.gz, .csv or .csv.gz, or set format",
        field="file_name",
    )


def _checked_split(split: SplitSpec) -> SplitSpec:
    validation, test = split.validation_share, split.test_share
    if split.column:
        if validation or test:
            raise InvalidArgument(
                f"spec.split has the column {split.column!r} and shares: leave one of them out", field="spec.split"
            )
        return split
    if not validation and not test:
        return SplitSpec(validation_share=DEFAULT_SHARE, test_share=DEFAULT_SHARE)
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise InvalidArgument(
            f"spec.split has {validation:g} for validation and {test:g} for test: both must be above 0 and leave "
            "something for training",
            field="spec.split",
        )
    return split


def _same(recorded: Import, wanted: Import) -> bool:
    return (recorded.source.digest, recorded.source.format, recorded.spec) == (
        wanted.source.digest,
        wanted.source.format,
        wanted.spec,
    )
