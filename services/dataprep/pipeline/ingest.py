"""From a file to the parts of a snapshot, row by row: parse, clean, check, drop duplicates, split, pack.

The same file and spec always give the same parts, byte for byte, which is what makes an import safe to repeat. Rows are
never all in memory; of each kept row 16 bytes stay, to know it again.
"""

import gzip
import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from millstream.dataset.v1.dataset_pb2 import ColumnReport, DatasetSpec, Format, RowCounts
from millstream.files import file_digest
from recipekit.spec import Spec
from services.dataprep.pipeline.clean import cleaner
from services.dataprep.pipeline.columns import Columns
from services.dataprep.pipeline.read import Bad, Record, Refused, read_records
from services.dataprep.pipeline.rules import SPLITS, Rules, encode

QUARANTINE = "quarantine"
SURE = 0.001
"""How likely a split may stay empty when we say how many rows it needs."""


class ImportProgress:
    """Rows looked at so far, told by the thread that works and read by the event loop; `stop` ends that thread."""

    def __init__(self) -> None:
        self.rows_read = 0
        self.stop = False

    def tell(self, rows_read: int) -> None:
        self.rows_read = rows_read
        if self.stop:
            raise ImportStopped


class ImportStopped(Exception):
    """The service is ending; the import goes on elsewhere, or at the next start."""


class PartFile(NamedTuple):
    split: str
    path: Path
    digest: str
    size_bytes: int
    rows: int


class Ingested(NamedTuple):
    parts: list[PartFile]
    rows: RowCounts
    splits: Mapping[str, int]
    quarantine_reasons: Mapping[str, int]
    columns: list[ColumnReport]


class Job(NamedTuple):
    """One file and what is to be made of it."""

    path: Path
    file_format: Format.ValueType
    spec: DatasetSpec
    recipe: Spec | None
    unpacked_limit: int


def ingest(job: Job, folder: Path, progress: ImportProgress) -> Ingested:
    """Write the parts into the folder. Raises Refused. Blocking: runs in a thread."""
    with ExitStack() as files:
        writers = {split: files.enter_context(_PartWriter(folder, split)) for split in (*SPLITS, QUARANTINE)}
        sorter = _Sorter(job, writers)
        for record in read_records(job.path, job.file_format, job.unpacked_limit):
            sorter.take(record)
            progress.tell(sorter.rows.read)
    sizes = {split: writers[split].rows for split in SPLITS}
    _check_result(job.spec, sorter, sizes)
    return Ingested(
        parts=[writer.part() for writer in writers.values() if writer.rows],
        rows=sorter.rows,
        splits=sizes,
        quarantine_reasons=sorter.reasons,
        columns=sorter.columns.reports(),
    )


class _PartWriter:
    """A part on disk, with the bytes that servicekit.blobs.parts.pack_rows would give."""

    def __init__(self, folder: Path, split: str) -> None:
        self.split, self.path, self.rows = split, folder / f"{split}.jsonl.gz", 0

    def __enter__(self) -> "_PartWriter":
        self._file = self.path.open("wb")
        # No name and no time in the header, or the same rows would not give the same bytes.
        self._gzip = gzip.GzipFile(filename="", fileobj=self._file, mode="wb", compresslevel=6, mtime=0)
        return self

    def write(self, line: bytes) -> None:
        self._gzip.write(line + b"\n")
        self.rows += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._gzip.close()
        self._file.close()

    def part(self) -> PartFile:
        return PartFile(self.split, self.path, file_digest(self.path), self.path.stat().st_size, self.rows)


class _Sorter:
    """Puts each record where it belongs: a split, the quarantine, or nowhere, being a duplicate. All are counted."""

    def __init__(self, job: Job, writers: Mapping[str, _PartWriter]) -> None:
        self.rules = Rules(job.spec, job.recipe, job.file_format)
        self.clean = cleaner(job.spec.cleaning)
        self.columns = Columns(self.rules.keeps)
        self.rows = RowCounts()
        self.reasons: Counter[str] = Counter()
        self._writers = writers
        self._seen: dict[bytes, Any] = {}
        """Identity → label of the row that came first."""

    def take(self, record: Record) -> None:
        self.rows.read += 1
        try:
            if record.row is None:
                raise Bad(record.reason)
            self._keep(record.row, record.line)
        except Bad as bad:
            self.rows.quarantined += 1
            self.reasons[str(bad)] += 1
            raw = record.raw.encode(errors="backslashreplace").decode()
            self._writers[QUARANTINE].write(encode({"line": record.line, "reason": str(bad), "raw": raw}))

    def _keep(self, found: dict[str, Any], line: int) -> None:
        row = self.clean(found)
        as_found = dict(row)
        said = self.rules.take_split(row, line)
        row = self.rules.check(row)
        packed = encode(row)
        identity = self.rules.identity(row, packed)
        label = self.rules.label(row)
        if identity[:16] in self._seen:
            if self._seen[identity[:16]] != label:
                raise Bad(f"{self.rules.label_column}: conflicts with an earlier row")
            self.rows.duplicate += 1
            return
        self._seen[identity[:16]] = label
        self._writers[said or self.rules.split_of(identity)].write(packed)
        self.rows.kept += 1
        self.columns.add(row, as_found)


def _check_result(spec: DatasetSpec, sorter: _Sorter, sizes: Mapping[str, int]) -> None:
    """Refuse what nobody could train on and evaluate."""
    rows = sorter.rows
    if not rows.read:
        raise Refused("the file holds no rows: check that it is the right file")
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in sorter.reasons.most_common(5))
    if not rows.kept:
        raise Refused(
            f"none of the {rows.read:,} rows can be used ({reasons}): mend the file, or import it under a spec that it meets"
        )
    empty = [split for split in SPLITS if not sizes[split]]
    if not empty:
        return
    can = f"{rows.kept:,} of {rows.read:,} rows can be used{f' ({reasons})' if reasons else ''}"
    if column := spec.split.column:
        raise Refused(f"{can}, and none says {' or '.join(empty)} in {column}: every split needs rows")
    raise Refused(
        f"{can}, which leaves none for {' and '.join(empty)}: import {_needed(spec):,} rows or more, "
        "or say each row's split in a column of your own (spec.split.column)"
    )


def _needed(spec: DatasetSpec) -> int:
    """Rows with which the smallest split is as good as never empty."""
    validation, test = spec.split.validation_share, spec.split.test_share
    return math.ceil(math.log(SURE) / math.log(1 - min(validation, test, 1 - validation - test)))
