# Derived from aio/datasets.py by `python tools/derive_client.py`: do not edit.
"""Files are imported into datasets, as snapshots."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from millstream.client.shared import (
    PAGE,
    UPLOAD_ATTEMPTS,
    ImportMode,
    WatchDeadline,
    exact_rows,
    import_mode,
    new_request_id,
)
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
        mode: ImportMode = "",
    ) -> Import:
        """Upload a file (.jsonl or .csv, also with .gz) and create its import; wait_import() waits until it has ended.

        The dataset's first import sets its spec: `recipe`, or a whole `spec`, which takes precedence (an empty one keeps
        the columns as found). Later both may be left out, but `mode` is needed: `append` adds the file's rows to those of
        the newest snapshot, `replace` keeps the file's rows alone. An upload that breaks is sent again as a whole.
        Raises InvalidArgument where the first spec is missing, or the file is too large or has another ending;
        FailedPrecondition for a spec that differs from the dataset's, or for a missing mode; OSError where the file
        cannot be read.
        """
        if spec is None and recipe:
            spec = DatasetSpec(recipe=recipe)
        path = Path(path)
        header = dataset.ImportHeader(
            request_id=request_id or new_request_id(),
            dataset=dataset_name,
            spec=spec,
            file_name=path.name,
            mode=import_mode(mode),
        )
        for attempt in range(1, UPLOAD_ATTEMPTS + 1):
            try:
                return (self._datasets.ImportDataset(upload(header, path))).dataset_import
            except Unavailable:
                if attempt == UPLOAD_ATTEMPTS:
                    raise
                time.sleep(0.2 * attempt)
        raise AssertionError

    def watch_import(
        self,
        dataset_name: str,
        request_id: str,
        timeout: float | None = None,
    ) -> Iterator[Import]:
        """The import now and at each change, until it has ended. A broken stream is opened again.

        `timeout` is in seconds, None: no limit. Raises DeadlineExceeded after it, and Unavailable after 30 s without an
        answer; the import itself goes on.
        """
        deadline = WatchDeadline(timeout, f"import {request_id} has not ended")
        request = dataset.WatchImportRequest(dataset=dataset_name, request_id=request_id)
        while True:
            try:
                for response in self._datasets.WatchImport(request, timeout=deadline.remaining()):
                    deadline.answered()
                    yield response.dataset_import
                    if response.dataset_import.state in IMPORT_ENDED:
                        return
                time.sleep(deadline.backoff())
            except Unavailable as error:
                time.sleep(deadline.backoff(error))

    def wait_import(self, dataset_name: str, request_id: str, timeout: float | None = None) -> Import:
        """The import once it has ended: succeeded, unchanged or refused (see `state` and `refusal`).

        `timeout` and errors as for watch_import().
        """
        newest = Import()
        for each in self.watch_import(dataset_name, request_id, timeout):
            newest = each
        return newest

    def dataset(self, name: str) -> Dataset:
        """A dataset with its spec and the number of its newest snapshot. Raises NotFound."""
        return (self._datasets.GetDataset(dataset.GetDatasetRequest(dataset=name))).dataset

    def datasets(self) -> Iterator[Dataset]:
        """Every dataset, by name."""
        request = dataset.ListDatasetsRequest(page_size=PAGE)
        for page in pages(self._datasets.ListDatasets, request):
            yield from page.datasets

    def snapshot(self, dataset_name: str, number: int = 0) -> Snapshot:
        """The snapshot of that number; 0: the newest. Raises NotFound."""
        request = dataset.GetSnapshotRequest(dataset=dataset_name, number=number)
        return (self._datasets.GetSnapshot(request)).snapshot

    def snapshots(self, dataset_name: str) -> Iterator[Snapshot]:
        """The dataset's snapshots, newest first."""
        request = dataset.ListSnapshotsRequest(dataset=dataset_name, page_size=PAGE)
        for page in pages(self._datasets.ListSnapshots, request):
            yield from page.snapshots

    def rows(self, dataset_name: str, number: int = 0, split: str = "train") -> Iterator[dict[str, Any]]:
        """Rows of one split (train, validation, test or quarantine) of a snapshot, in stored order.

        `number` 0: the newest snapshot. Numbers come as they were imported. A row of more than 8 MiB, which only snapshots
        of earlier versions have, comes as its beginning: {"cut_row": text, "size_bytes": length}. Raises InvalidArgument
        for another split.
        """
        request = dataset.ListRowsRequest(dataset=dataset_name, number=number, split=split, page_size=PAGE)
        for page in pages(self._datasets.ListRows, request):
            yield from exact_rows(page)
