"""Learns what the cells of a CSV look like, so that a stray quote is told from a quoted cell of many lines."""

from collections.abc import Iterable

from services.dataprep.pipeline.csv_records import NUMBER, CsvRecords, Shape

MOST_VALUES = 1000
"""Different values of a column that is still telling."""
ROWS_A_VALUE = 4
"""A column is telling if each of its values has so many rows, on average."""


def shape_of(lines: Iterable[str], longest: int, backslash: bool) -> Shape:
    """The telling columns of the records of one line, the header left out. Memory does not grow with the lines.

    A column tells if it has few values, such as labels, or numbers alone. Records of several lines teach nothing: prose is
    in them, or a stray quote. `longest` bounds a record, in bytes.
    """
    columns: list[_Column] = []
    rows = 0
    for record in CsvRecords(lines, longest, backslash, shape=None):
        if not record.cells:
            continue
        if not columns:
            columns = [_Column() for _ in record.cells]
        elif len(record.lines) == 1:
            rows += 1
            for column, cell in zip(columns, record.cells, strict=True):
                column.add(cell)
    telling: dict[int, frozenset[str] | None] = {}
    for number, column in enumerate(columns):
        if column.values and ROWS_A_VALUE * len(column.values) <= rows:
            telling[number] = frozenset(column.values)
        elif rows and column.is_number:
            telling[number] = None
    return Shape(telling)


class _Column:
    def __init__(self) -> None:
        self.is_number = True
        self.values: set[str] | None = set()
        """None: more than MOST_VALUES."""

    def add(self, cell: str) -> None:
        self.is_number = self.is_number and NUMBER.fullmatch(cell) is not None
        if self.values is not None:
            self.values.add(cell)
            if len(self.values) > MOST_VALUES:
                self.values = None
