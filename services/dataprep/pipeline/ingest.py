"""From a file to the parts of a snapshot, row by row: read, clean, check, drop duplicates, split, write.

The same file and spec always give the same parts, byte for byte, so an import may be repeated. Memory holds 16 bytes and
the label of each kept row, to find duplicates.
"""

import math
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from millstream.dataset.v1.dataset_pb2 import ColumnReport, DatasetSpec, Format, RowCounts
from recipekit.cleaning import CannotClean, Cleaning, cleaner
from recipekit.spec import Spec
from servicekit.blobs.parts import PartFile, PartWriter
from services.dataprep.pipeline.columns import Columns
from services.dataprep.pipeline.read import BadRow, Record, Refused, read_records
from services.dataprep.pipeline.rules import SPLITS, Rules, encode

QUARANTINE = "quarantine"
EMPTY_RISK = 0.001
"""The chance that a split is empty in a file of as many rows as a refusal recommends."""


class ImportProgress:
    """Rows read so far: written by the thread that ingests, read by the event loop. `stop` makes that thread end."""

    def __init__(self) -> None:
        self.rows_read = 0
        self.stop = False

    def report(self, rows_read: int) -> None:
        """Publish the count. Raises ImportStopped once `stop` is set."""
        self.rows_read = rows_read
        if self.stop:
            raise ImportStopped


class ImportStopped(Exception):
    """The service is shutting down; another replica or the next start repeats the import."""


class Ingested(NamedTuple):
    """What a file became: its parts on disk, and the counts of the snapshot. `splits` has the rows of each split."""

    parts: list[PartFile]
    rows: RowCounts
    splits: Mapping[str, int]
    quarantine_reasons: Mapping[str, int]
    columns: list[ColumnReport]


class Job(NamedTuple):
    """A file and how to ingest it. `recipe` is None for a dataset without one; the limit is in unpacked bytes."""

    path: Path
    file_format: Format.ValueType
    spec: DatasetSpec
    recipe: Spec | None
    unpacked_limit: int


def ingest(job: Job, folder: Path, progress: ImportProgress) -> Ingested:
    """Write the parts into the folder. Raises Refused or ImportStopped. Blocking: runs in a thread."""
    with ExitStack() as files:
        writers = {split: files.enter_context(PartWriter(folder, split)) for split in (*SPLITS, QUARANTINE)}
        sorter = _Sorter(job, writers)
        for record in read_records(job.path, job.file_format, job.unpacked_limit):
            sorter.take(record)
            progress.report(sorter.rows.read)
    sizes = {split: writers[split].rows for split in SPLITS}
    _check_result(job.spec, sorter, sizes)
    return Ingested(
        parts=[writer.part() for writer in writers.values() if writer.rows],
        rows=sorter.rows,
        splits=sizes,
        quarantine_reasons=sorter.reasons,
        columns=sorter.columns.reports(),
    )


class _Sorter:
    """Writes each record to its split or to the quarantine, drops duplicates, and counts all of them."""

    def __init__(self, job: Job, writers: Mapping[str, PartWriter]) -> None:
        self.rules = Rules(job.spec, job.recipe, job.file_format)
        options = MessageToDict(job.spec.cleaning, preserving_proto_field_name=True)
        self.clean = cleaner(Cleaning.of(options))
        self.columns = Columns(self.rules.keeps)
        self.rows = RowCounts()
        self.reasons: Counter[str] = Counter()
        self._writers = writers
        self._seen: dict[bytes, Any] = {}
        """First half of the row key → label of the first row that has it."""

    def take(self, record: Record) -> None:
        """Count a record and write it where it belongs."""
        self.rows.read += 1
        try:
            if record.row is None:
                raise BadRow(record.reason)
            self._keep(record.row, record.line)
        except BadRow as bad:
            self.rows.quarantined += 1
            self.reasons[str(bad)] += 1
            raw = record.raw.encode(errors="backslashreplace").decode()
            self._writers[QUARANTINE].write(encode({"line": record.line, "reason": str(bad), "raw": raw}))

    def _keep(self, found: dict[str, Any], line: int) -> None:
        try:
            row = self.clean(found)
        except CannotClean as error:
            raise BadRow(str(error)) from None
        as_found = dict(row)
        named_split = self.rules.take_split(row, line)
        row = self.rules.check(row)
        encoded = encode(row)
        key = self.rules.key(row)
        label = self.rules.label(row)
        if key[:16] in self._seen:
            if self._seen[key[:16]] != label:
                raise BadRow(f"{self.rules.label_column}: conflicts with an earlier row")
            self.rows.duplicate += 1
            return
        self._seen[key[:16]] = label
        self._writers[named_split or self.rules.split_of(key)].write(encoded)
        self.rows.kept += 1
        self.columns.add(row, as_found)


def _check_result(spec: DatasetSpec, sorter: _Sorter, sizes: Mapping[str, int]) -> None:
    """Refuse a file that leaves a split empty: training and evaluation need all three."""
    rows = sorter.rows
    if not rows.read:
        raise Refused("the file has no rows: check that it is the right file")
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in sorter.reasons.most_common(5))
    if not rows.kept:
        raise Refused(
            f"none of the {rows.read:,} rows can be used ({reasons}): correct the file, or import it with a fitting spec"
        )
    empty = [split for split in SPLITS if not sizes[split]]
    if not empty:
        return
    can = f"{rows.kept:,} of {rows.read:,} rows can be used{f' ({reasons})' if reasons else ''}"
    if column := spec.split.column:
        raise Refused(f"{can}, and none has {' or '.join(empty)} in {column}: every split needs rows")
    raise Refused(
        f"{can}, which leaves none for {' and '.join(empty)}: import {_needed(spec):,} rows or more, "
        "or name each row's split in a column (spec.split.column)"
    )


def _needed(spec: DatasetSpec) -> int:
    """Rows with which the smallest split is empty only with a chance of EMPTY_RISK."""
    validation, test = spec.split.validation_share, spec.split.test_share
    return math.ceil(math.log(EMPTY_RISK) / math.log(1 - min(validation, test, 1 - validation - test)))
