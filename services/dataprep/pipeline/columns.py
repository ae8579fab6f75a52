"""The column report of a snapshot: what the columns of the kept rows hold, counted in bounded memory."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

from millstream.dataset.v1.dataset_pb2 import ColumnReport
from servicekit.limits import COLUMN_CHARACTERS
from services.dataprep.pipeline.read import BadRow, Refused

MOST_COLUMNS = 1000
MOST_DISTINCT = 1000
"""The most distinct values that are counted in a column; the report says whether there are more."""
FEW_DISTINCT = 100
"""A column with at most this many distinct values holds categories: its frequent values are reported."""
SHOWN = 20
LONGEST_SHOWN = 200
"""Characters. A column with longer values holds text, not categories."""
FREQUENT_BYTES = 1 << 20
"""Most bytes of the reports of the columns, by name, that show their frequent values; those after them show none."""


def check_names(row: Mapping[str, Any]) -> None:
    """Raise BadRow for more columns than a snapshot may have, and for a name that is too long to be reported."""
    if len(row) > MOST_COLUMNS:
        raise BadRow(f"more than {MOST_COLUMNS} columns")
    if any(len(name) > COLUMN_CHARACTERS for name in row):
        raise BadRow(f"a column's name has more than {COLUMN_CHARACTERS} characters")


class Columns:
    """Counts every column of the kept rows, also those that the snapshot leaves out."""

    def __init__(self, keeps: Callable[[str], bool]) -> None:
        self.keeps, self.rows = keeps, 0
        self._columns: dict[str, _Column] = {}

    def add(
        self, row: Mapping[str, Any], as_found: Mapping[str, Any], trimmed: Collection[str] = (), normalised: str = ""
    ) -> None:
        """Count a row, as it is kept and as the file has it, the columns whose edges were trimmed, and the normalised one.

        Raises Refused for too many different columns.
        """
        self.rows += 1
        for name, value in row.items():
            self._column(name).add(value)
        for name in trimmed:
            if name in row or name in as_found:
                self._column(name).trimmed += 1
        if normalised:
            self._column(normalised).normalised += 1
        if len(row) < len(as_found) or row.keys() != as_found.keys():
            for name in as_found.keys() - row.keys():
                self._column(name).add(as_found[name])

    def reports(self) -> list[ColumnReport]:
        """One report a column, sorted by name."""
        reports, room = [], FREQUENT_BYTES
        for name in sorted(self._columns):
            report = self._columns[name].report(self.rows, self.keeps(name))
            room -= report.ByteSize()
            if room < 0:
                report.ClearField("frequent")
            reports.append(report)
        return reports

    def _column(self, name: str) -> "_Column":
        if name not in self._columns:
            if len(self._columns) == MOST_COLUMNS:
                raise Refused(
                    f"the rows have more than {MOST_COLUMNS} different columns: give every row the same few columns, "
                    "and put names that vary into a list"
                )
            self._columns[name] = _Column(name)
        return self._columns[name]


class _Column:
    def __init__(self, name: str) -> None:
        self.name, self.present, self.trimmed, self.normalised, self.stopped = name, 0, 0, 0, False
        self.values: Counter[str | int] = Counter()
        self.texts = self.characters = self.shortest = self.longest = 0

    def add(self, value: Any) -> None:
        if value is None or value == "":
            return
        self.present += 1
        if isinstance(value, str):
            length = len(value)
            self.shortest = min(self.shortest, length) if self.texts else length
            self.longest = max(self.longest, length)
            self.texts += 1
            self.characters += length
        else:
            value = json.dumps(value, ensure_ascii=False, sort_keys=True)
        # A long value is counted by its hash, to bound the memory.
        key = value if len(value) <= LONGEST_SHOWN else hash(value)
        if key in self.values or len(self.values) < MOST_DISTINCT:
            self.values[key] += 1
        else:
            self.stopped = True

    def report(self, rows: int, kept: bool) -> ColumnReport:
        report = ColumnReport(
            name=self.name,
            kept=kept,
            present=self.present,
            empty=rows - self.present,
            distinct=len(self.values),
            distinct_stopped=self.stopped,
            trimmed=self.trimmed,
            normalised=self.normalised,
            shortest=self.shortest,
            longest=self.longest,
            mean_length=self.characters / self.texts if self.texts else 0.0,
        )
        if len(self.values) <= FEW_DISTINCT and all(isinstance(key, str) for key in self.values):
            for key, count in sorted(self.values.items(), key=lambda found: (-found[1], str(found[0])))[:SHOWN]:
                report.frequent[str(key)] = count
        return report
