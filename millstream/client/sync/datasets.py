# Derived from aio/datasets.py by `python tools/derive_client.py`: do not edit.
"""Files become snapshots."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from millstream.client.shared import PAGE, TRIES, Patience, new_request_id
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.client.transfer import upload
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_pb2 import Dataset, DatasetSpec, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import Unavailable
from millstream.states import IMPORT_ENDED


class Datasets(Connection):
    """Calls dataprep."""

    def import_dataset(
        self,
        path: str | Path,
        dataset_name: str,
        *,
        recipe: str = "",
        spec: DatasetSpec | None = None,
        request_id: str = "",
    ) -> Import:
        """Upload a file and ask for its import; wait_import() tells how it ended.

        `recipe` (or a whole `spec`) is needed at the dataset's first import only.
        """
        if spec is None and recipe:
            spec = DatasetSpec(recipe=recipe)
        path = Path(path)
        header = dataset.ImportHeader(
            request_id=request_id or new_request_id(), dataset=dataset_name, spec=spec, file_name=path.name
        )
        for attempt in range(1, TRIES + 1):
            try:
                return (self._datasets.ImportDataset(upload(header, path))).dataset_import
            except Unavailable:
                if attempt == TRIES:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError

    def watch_import(
        self,
        dataset_name: str,
        request_id: str,
        timeout: float | None = None,
    ) -> Iterator[Import]:
        """The import now and at each change, until it has ended; goes on when the service restarts."""
        patience = Patience(timeout, f"the end of the import {request_id}")
        request = dataset.WatchImportRequest(dataset=dataset_name, request_id=request_id)
        while True:
            try:
                for response in self._datasets.WatchImport(request, timeout=patience.left()):
                    patience.heard()
                    yield response.dataset_import
                    if response.dataset_import.state in IMPORT_ENDED:
                        return
                time.sleep(patience.pause())
            except Unavailable as error:
                time.sleep(patience.pause(error))

    def wait_import(self, dataset_name: str, request_id: str, timeout: float | None = None) -> Import:
        """The import once it has ended, be it refused. Raises DeadlineExceeded."""
        newest = Import()
        for each in self.watch_import(dataset_name, request_id, timeout):
            newest = each
        return newest

    def dataset(self, name: str) -> Dataset:
        return (self._datasets.GetDataset(dataset.GetDatasetRequest(dataset=name))).dataset

    def datasets(self) -> Iterator[Dataset]:
        request = dataset.ListDatasetsRequest(page_size=PAGE)
        for page in pages(self._datasets.ListDatasets, request):
            yield from page.datasets

    def snapshot(self, dataset_name: str, number: int = 0) -> Snapshot:
        """The snapshot of that number; 0: the newest."""
        request = dataset.GetSnapshotRequest(dataset=dataset_name, number=number)
        return (self._datasets.GetSnapshot(request)).snapshot

    def snapshots(self, dataset_name: str) -> Iterator[Snapshot]:
        """Newest first."""
        request = dataset.ListSnapshotsRequest(dataset=dataset_name, page_size=PAGE)
        for page in pages(self._datasets.ListSnapshots, request):
            yield from page.snapshots

    def rows(self, dataset_name: str, number: int = 0, split: str = "train") -> Iterator[dict[str, Any]]:
        """Rows of train, validation, test or quarantine."""
        request = dataset.ListRowsRequest(dataset=dataset_name, number=number, split=split, page_size=PAGE)
        for page in pages(self._datasets.ListRows, request):
            for row in page.rows:
                yield MessageToDict(row)
