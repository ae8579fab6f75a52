"""From a file to the parts of a snapshot, row by row: read, clean, check, drop duplicates, split, write.

The same file and spec always give the same parts, byte for byte, so an import may be repeated. Rows pass one by one, and
those seen are in a file (known.py), so memory does not grow with the rows.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.json_format import MessageToDict

from millstream.dataset.v1.dataset_pb2 import ColumnReport, DatasetSpec, Format, LabelReport, RowCounts
from millstream.dataset.v1.import_pb2 import FileReport
from recipekit.cleaning import CannotClean, Cleaning, cleaner
from recipekit.edges import strip_edges
from recipekit.spec import Spec
from recipekit.text_limits import LONGEST_TEXT, TextTooLong, check_lengths
from servicekit.blobs.parts import PartFile, PartWriter, rows_of
from services.dataprep.pipeline.columns import Columns, check_names
from services.dataprep.pipeline.known import LABEL_BYTES, KnownRows
from services.dataprep.pipeline.labels import Labels
from services.dataprep.pipeline.read import BadRow, Record, Refused, find_form, read_records
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


class EarlierPart(NamedTuple):
    """A split's rows in the snapshot before, on disk."""

    split: str
    path: Path


class Ingested(NamedTuple):
    """What a file became: its parts on disk, the counts of the snapshot, and those of the file alone. `splits` has the rows
    of each split, `same` is the number of rows that the snapshot before had too."""

    parts: list[PartFile]
    rows: RowCounts
    splits: Mapping[str, int]
    quarantine_reasons: Mapping[str, int]
    columns: list[ColumnReport]
    labels: LabelReport | None
    """None without a recipe, or where it has no label column."""
    same: int
    file: FileReport
    dialect: str
    """Of a CSV: its separator and its quotes, in words."""


class Job(NamedTuple):
    """A file and how to ingest it. `recipe` is None for a dataset without one.

    `unpacked_limit` is in bytes of the whole file, `longest_text` in characters of one text. `earlier` are the rows of the
    snapshot before. To `append` is to begin with them; otherwise they are only compared.
    """

    path: Path
    file_format: Format.ValueType
    spec: DatasetSpec
    recipe: Spec | None
    unpacked_limit: int
    earlier: Sequence[EarlierPart] = ()
    append: bool = False
    longest_text: int = LONGEST_TEXT


def ingest(job: Job, folder: Path, progress: ImportProgress) -> Ingested:
    """Write the parts into the folder. Raises Refused or ImportStopped. Blocking: runs in a thread."""
    with ExitStack() as files:
        writers = {split: files.enter_context(PartWriter(folder, split)) for split in (*SPLITS, QUARANTINE)}
        sorter = _Sorter(job, writers, files.enter_context(KnownRows(folder)))
        if job.append:
            for part in job.earlier:
                for line, row in rows_of(part.path):
                    sorter.carry(part.split, line, row)
                    progress.report(0)
        form = find_form(job.path, job.file_format, job.unpacked_limit, lambda: progress.report(0))
        for record in read_records(job.path, job.file_format, job.unpacked_limit, form):
            sorter.take(record)
            progress.report(sorter.rows.read - sorter.rows.carried)
        same = sorter.rows.carried if job.append else _count_same(job.earlier, sorter, progress)
    sizes = {split: writers[split].rows for split in SPLITS}
    _check_result(job.spec, sorter, sizes)
    if sorter.labels and job.recipe and "classify" in job.recipe.tasks:
        sorter.labels.check()
    return Ingested(
        parts=[writer.part() for writer in writers.values() if writer.rows],
        rows=sorter.rows,
        splits=sizes,
        quarantine_reasons=sorter.reasons,
        columns=sorter.columns.reports(),
        labels=sorter.labels.report() if sorter.labels else None,
        same=same,
        file=sorter.file_report(),
        dialect=form.dialect if form else "",
    )


def _count_same(earlier: Sequence[EarlierPart], sorter: "_Sorter", progress: ImportProgress) -> int:
    """How many of the earlier rows the file has too."""
    same = 0
    for part in earlier:
        for _, row in rows_of(part.path):
            same += sorter.has(row)
            progress.report(progress.rows_read)
    return same


class _Sorter:
    """Writes each record to its split or to the quarantine, drops duplicates, and counts all of them."""

    def __init__(self, job: Job, writers: Mapping[str, PartWriter], known: KnownRows) -> None:
        self.rules = Rules(job.spec, job.recipe, job.file_format)
        options = MessageToDict(job.spec.cleaning, preserving_proto_field_name=True)
        self.clean = cleaner(Cleaning.of(options), self.rules.names_column)
        self.columns = Columns(self.rules.keeps)
        self.labels = Labels(self.rules.label_column) if self.rules.label_column else None
        self.rows = RowCounts()
        self.reasons: Counter[str] = Counter()
        self._trimmed_labels = self._normalised_labels = 0
        self._writers, self._known, self._longest_text = writers, known, job.longest_text

    def carry(self, split: str, line: bytes, row: Mapping[str, Any]) -> None:
        """Begin with a row of the snapshot before, in the split that it has there.

        A label that an earlier version stored as `1.0` becomes `1`, as in new rows: a snapshot has one vocabulary.
        """
        labelled, normalised = self.rules.with_label(row)
        label = self.rules.label_key(labelled)
        # Two rows can be the same by now, if the recipe has named other identity columns.
        if self._known.add(self.rules.key(labelled), label) is None:
            self.rows.read += 1
            self.rows.carried += 1
            self._write(split, line if labelled is row else encode(labelled), labelled, label)
            self.columns.add(labelled, labelled, normalised=self.rules.label_column if normalised else "")

    def has(self, row: Mapping[str, Any]) -> bool:
        """Whether a row with this key and this label was kept."""
        row, _ = self.rules.with_label(row)
        return self._known.label(self.rules.key(row)) == self.rules.label_key(row)[:LABEL_BYTES]

    def take(self, record: Record) -> None:
        """Count a record and write it where it belongs."""
        self.rows.read += 1
        try:
            if record.row is None:
                raise BadRow(record.reason)
            self._keep(record.row)
        except Refused as error:
            raise Refused(f"line {record.line}: {error}") from None
        except BadRow as bad:
            self.rows.quarantined += 1
            self.reasons[str(bad)] += 1
            raw = record.raw.encode(errors="backslashreplace").decode()
            shown = {"line": record.line, "reason": str(bad), "raw": raw}
            note = record.note or bad.note
            self._writers[QUARANTINE].write(encode({**shown, "note": note} if note else shown))

    def _keep(self, found: dict[str, Any]) -> None:
        check_names(found)
        try:
            check_lengths(found, self._longest_text)
        except TextTooLong as error:
            raise BadRow(f"{error.column}: {error}") from None
        try:
            row = self.clean(found)
        except CannotClean as error:
            raise BadRow(str(error)) from None
        as_found = dict(row)
        named_split = self.rules.take_split(row)
        labelled, normalised = self.rules.with_label(row)
        row = self.rules.check(labelled)
        encoded = encode(row)
        trimmed = [name for name, value in found.items() if _is_trimmed(value)]
        self._trimmed_labels += self.rules.label_column in trimmed
        self._normalised_labels += normalised
        key = self.rules.key(row)
        label = self.rules.label_key(row)
        earlier = self._known.add(key, label)
        if earlier is not None:
            if earlier != label[:LABEL_BYTES]:
                raise self._conflict(row, earlier)
            self.rows.duplicate += 1
            return
        self._write(named_split or self.rules.split_of(key), encoded, row, label)
        self.columns.add(row, as_found, trimmed, self.rules.label_column if normalised else "")

    def _conflict(self, row: Mapping[str, Any], earlier: bytes) -> BadRow:
        """The row has the key of an earlier one, whose label is another."""
        column = self.rules.label_column
        note = self.labels.contradict(row.get(column), earlier) if self.labels else ""
        return BadRow(f"{column}: conflicts with an earlier row", note)

    def file_report(self) -> FileReport:
        """What was found in the file, without the rows that were carried."""
        carried = self.rows.carried
        return FileReport(
            rows=RowCounts(
                read=self.rows.read - carried,
                kept=self.rows.kept - carried,
                duplicate=self.rows.duplicate,
                quarantined=self.rows.quarantined,
            ),
            quarantine_reasons=self.reasons,
            trimmed_labels=self._trimmed_labels,
            normalised_labels=self._normalised_labels,
        )

    def _write(self, split: str, line: bytes, row: Mapping[str, Any], label_key: bytes) -> None:
        self._writers[split].write(line)
        self.rows.kept += 1
        if self.labels:
            self.labels.add(row.get(self.labels.column), split, label_key[:LABEL_BYTES])


def _is_trimmed(value: Any) -> bool:
    return isinstance(value, str) and strip_edges(value) != value


def _check_result(spec: DatasetSpec, sorter: _Sorter, sizes: Mapping[str, int]) -> None:
    """Refuse a file that leaves a split empty: training and evaluation need all three."""
    rows = sorter.rows
    read = rows.read - rows.carried
    if not read:
        raise Refused("the file has no rows: check that it is the right file")
    reasons = ", ".join(f"{count:,} × {reason}" for reason, count in sorter.reasons.most_common(5))
    if rows.quarantined == read:
        raise Refused(
            f"none of the {read:,} rows can be used ({reasons}): correct the file, or import it with a fitting spec"
            + "".join(f". {text}" for text in (sorter.labels.warn_of_conflicts() if sorter.labels else ()))
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
