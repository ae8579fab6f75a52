"""Dataprep in memory: any number of replicas on one store and one bus, called as clients call them."""

import asyncio
import gzip
import json
import shutil
import weakref
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from millstream.client.shared import exact_rows
from millstream.dataset.v1.dataset_pb2 import DatasetSpec, Format, Snapshot
from millstream.dataset.v1.dataset_service_pb2 import (
    GetImportRequest,
    GetSnapshotRequest,
    ImportDatasetRequest,
    ImportHeader,
    ListRowsRequest,
    WatchImportRequest,
)
from millstream.dataset.v1.import_pb2 import Import
from recipekit.catalog import Catalog
from recipekit.text_limits import LONGEST_TEXT
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from servicekit.work.queue import Work
from services.dataprep.handlers import HANDLERS
from services.dataprep.reconcile import EndImport
from services.dataprep.service import DatasetService
from services.dataprep.store import FACTS, Store
from services.dataprep.uploads import Uploads
from tests.recipes.toy_words.sample import rows as sample_rows

TOY = DatasetSpec(recipe="toy_words")
PLAIN = DatasetSpec()


def lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def sample(count: int = 200) -> bytes:
    return lines(sample_rows(count))


class World:
    """One replica. Worlds with the same store and bus are replicas of one dataprep."""

    def __init__(
        self,
        blobs: Blobs | None = None,
        bus: MemoryBus | None = None,
        *,
        upload_limit: int = 1 << 26,
        unpacked_limit: int = 1 << 26,
        kept_bytes: int = 1 << 26,
        longest_text: int = LONGEST_TEXT,
        recipes: str = "tests.recipes",
        slots: int = 8,
        uploads_at_once: int = 64,
        upload_pause_seconds: float = 60.0,
    ) -> None:
        self.blobs, self.bus = blobs or MemoryBlobs(), bus or MemoryBus()
        self.outbox = Outbox(self.blobs, self.bus, "dataprep", FACTS)
        self.store = Store(self.blobs, self.outbox)
        catalog = Catalog([recipes])
        folder = mkdtemp(prefix="dataprep-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.uploads = Uploads(
            Path(folder),
            upload_limit,
            kept_bytes=kept_bytes,
            at_once=uploads_at_once,
            pause_seconds=upload_pause_seconds,
        )
        self.work = Work(self.blobs, self.bus, "dataprep", HANDLERS, resync_seconds=30, workers=slots)
        self.imports = EndImport(
            self.store, catalog, self.uploads, self.work, unpacked_limit, slots, longest_text=longest_text
        )
        self.work.register(self.imports)
        self.service = DatasetService(self.store, catalog, self.uploads, self.imports, self.work)

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        task = asyncio.create_task(self.work.run())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await self.outbox.flush()

    async def ask(
        self,
        data: bytes,
        *,
        dataset: str = "words",
        file_name: str = "words.jsonl",
        spec: DatasetSpec | None = TOY,
        request_id: str = "",
        file_format: Format.ValueType = 0,  # type: ignore[assignment]
        mode: Import.Mode.ValueType = Import.MODE_REPLACE,
    ) -> Import:
        """ImportDataset, in chunks."""
        header = ImportHeader(
            dataset=dataset,
            file_name=file_name,
            spec=spec,
            request_id=request_id,
            format=file_format,
            mode=mode,
        )

        async def requests() -> AsyncIterator[ImportDatasetRequest]:
            yield ImportDatasetRequest(header=header)
            for start in range(0, len(data), 10_000):
                yield ImportDatasetRequest(chunk=data[start : start + 10_000])

        return (await self.service.ImportDataset(requests())).dataset_import

    async def watch(self, asked: Import) -> list[Import]:
        request = WatchImportRequest(dataset=asked.dataset, request_id=asked.request_id)
        return [response.dataset_import async for response in self.service.WatchImport(request)]

    async def do(self, data: bytes, **more: Any) -> Import:
        """Import and wait for the end."""
        return (await self.watch(await self.ask(data, **more)))[-1]

    async def get(self, asked: Import) -> Import:
        request = GetImportRequest(dataset=asked.dataset, request_id=asked.request_id)
        return (await self.service.GetImport(request)).dataset_import

    async def snapshot(self, number: int = 0, dataset: str = "words") -> Snapshot:
        return (await self.service.GetSnapshot(GetSnapshotRequest(dataset=dataset, number=number))).snapshot

    async def rows(self, split: str, number: int = 0, dataset: str = "words") -> list[dict[str, Any]]:
        """All rows of a split, page by page."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            response = await self.service.ListRows(
                ListRowsRequest(dataset=dataset, number=number, split=split, page_size=37, page_token=token)
            )
            found += exact_rows(response)
            token = response.next_page_token
            if not token:
                return found

    async def splits(self, number: int = 0, dataset: str = "words") -> dict[str, str]:
        """text → split."""
        return {
            row["text"]: split
            for split in ("train", "validation", "test")
            for row in await self.rows(split, number, dataset)
        }


def zipped(data: bytes) -> bytes:
    """The bytes in gzip."""
    return gzip.compress(data, mtime=0)
