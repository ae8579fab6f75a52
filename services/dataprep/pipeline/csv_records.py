"""The records of a CSV, found line by line, so that a wrong quote costs its own line and no other.

A record that is broken gives up its first line alone, and reading goes on at the next one. A line is parsed once from
outside and once from inside a quoted cell, however many records may begin before it, and a broken one at most once more to
name its reason, so every file takes linear time.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import NamedTuple

MOST_LINES = 1000
"""Lines of one record. A quoted cell that runs on for more was never closed."""
SWALLOWED = 10
"""From so many inner lines on, a record is broken if nine in ten of them are records too, where no column is telling."""
NUMBER = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
ESCAPED = '\\"'
"""A quote that a backslash escapes, in files that do not double them."""
QUOTED_CELL = re.compile(r"""(?:(?<=,)|\A)"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"?""", re.DOTALL)
"""In a record whose quotes are escaped by backslashes, a quoted cell up to its end, or to that of the record.

A doubled quote does not end it, as in the module csv, so that both find the same cells."""
_ESCAPE = re.compile(r"""\\(["\\])""")
_CLOSED, _OPEN, _BROKEN = range(3)


class CsvRecord(NamedTuple):
    """One record, of the lines `first` to `last`. `cells` is None where it is broken: `lines` then has the first alone."""

    first: int
    last: int
    lines: Sequence[str]
    cells: list[str] | None
    reason: str = ""


class Shape(NamedTuple):
    """What tells a record from a line of prose: by column, its few values, or None where all are numbers."""

    cells: Mapping[int, frozenset[str] | None]

    def fits(self, cells: Sequence[str]) -> bool:
        """Whether each telling cell is one that its column has."""
        return all(
            NUMBER.fullmatch(cells[column]) is not None if values is None else cells[column] in values
            for column, values in self.cells.items()
        )


UNTOLD = Shape({})


class CsvRecords:
    """Iterates over the records of some lines, without blank ones. The first that is not broken is the header."""

    def __init__(
        self, lines: Iterable[str], longest: int, backslash: bool = False, shape: "Shape | None" = UNTOLD
    ) -> None:
        """`longest` bounds a record, in bytes. With `backslash` quotes inside quoted cells are not doubled but escaped.

        `shape` tells lines that a stray quote has swallowed; None: a quoted cell may have any lines.
        """
        self._source = enumerate(lines, 1)
        self._backslash, self._shape = backslash, shape
        self._longest = longest
        self._ahead: deque[_Line] = deque()
        """Lines that were fetched and are not part of a record yet; they have no more bytes than `longest` and one line."""
        self._columns = 0
        self._walked = 0
        """The last line that was found to continue a quoted cell; all from the first such line to it lie in that cell."""

    def __iter__(self) -> Iterator[CsvRecord]:
        while line := self._line(0):
            record = self._record(line)
            for _ in record.lines:
                self._ahead.popleft()
            if record.cells == []:
                continue
            if record.cells and not self._columns:
                self._columns = len(record.cells)
            yield record

    def _record(self, first: "_Line") -> CsvRecord:
        last, reason = self._end(first)
        cells = len(first.outside.cells) + last.joined - first.joined
        if not reason and self._columns and cells:
            if cells != self._columns:
                reason = "too few cells" if cells < self._columns else "too many cells"
            elif self._swallows(first, last):
                reason = "a quote swallows whole records"
        if reason:
            reason = "a quote is escaped by a backslash, not doubled" if self._is_escaped(first) else reason
            return CsvRecord(first.number, last.number, [first.text], None, reason)
        if last is first:
            return CsvRecord(first.number, last.number, [first.text], first.outside.cells)
        lines = [line.text for line in islice(self._ahead, last.number - first.number + 1)]
        doubled = [unescape("".join(lines))] if self._backslash else lines
        return CsvRecord(first.number, last.number, lines, next(csv.reader(doubled, strict=True)))

    def _is_escaped(self, line: "_Line") -> bool:
        """Whether the broken line would be a record, or the beginning of one, if a backslash escaped quotes."""
        if self._backslash or ESCAPED not in line.text:
            return False
        piece = _parse(unescape(line.text))
        return piece.ends == _OPEN or (piece.ends == _CLOSED and len(piece.cells) == self._columns)

    def _end(self, first: "_Line") -> tuple["_Line", str]:
        """The last line of the record that begins here, and why it is broken."""
        if first.outside.ends != _OPEN:
            return first, "broken quotes" if first.outside.ends == _BROKEN else ""
        at = max(0, self._walked - first.number)
        if not at:
            first.joined = first.whole = 0
        last = self._ahead[at]
        while last is first or last.inside.ends == _OPEN:
            if at >= MOST_LINES or last.end - first.start > self._longest:
                return last, "a quoted cell is too long"
            following = self._line(at + 1)
            if following is None:
                return last, "a quote is never closed"
            following.joined = last.joined + len(following.inside.cells) - 1
            following.whole = last.whole + self._is_record(following)
            last, at, self._walked = following, at + 1, following.number
        return last, "broken quotes" if last.inside.ends == _BROKEN else ""

    def _swallows(self, first: "_Line", last: "_Line") -> bool:
        """Whether the lines of a record look like records themselves. In a file of one column every line does."""
        inner = last.number - first.number - 1
        if self._shape is None or self._columns < 2 or inner < 0:
            return False
        whole = self._ahead[inner].whole - first.whole
        if not self._shape.cells:
            return inner >= SWALLOWED and 10 * whole >= 9 * inner
        lines = inner
        # A cell that ends its line, or begins it, makes that line look like a record whether it is one or not.
        if len(first.outside.cells) < self._columns:
            lines, whole = lines + 1, whole + self._is_record(first)
        if len(last.inside.cells) < self._columns:
            lines, whole = lines + 1, whole + self._is_record(last)
        return whole > 0 and 2 * whole >= lines

    def _is_record(self, line: "_Line") -> bool:
        cells = line.cells
        return self._shape is not None and len(cells) == self._columns and self._shape.fits(cells)

    def _line(self, at: int) -> "_Line | None":
        while len(self._ahead) <= at:
            fetched = next(self._source, None)
            if fetched is None:
                return None
            start = self._ahead[-1].end if self._ahead else 0
            self._ahead.append(_Line(*fetched, start, self._backslash))
        return self._ahead[at]


class _Piece(NamedTuple):
    """How a line ends, and its cells, with an unfinished one."""

    ends: int
    cells: list[str]


class _Line:
    """A line; `start` and `end` are its place in bytes among the lines that were fetched with it."""

    def __init__(self, number: int, text: str, start: int, backslash: bool) -> None:
        self.number, self.text, self.start, self._backslash = number, text, start, backslash
        self.end = start + (len(text) if text.isascii() else len(text.encode()))
        self.joined = self.whole = 0
        """Of this line and those before it in a quoted cell: cells that they add to a record; lines that are records."""

    @cached_property
    def outside(self) -> _Piece:
        """The line where no quoted cell is open before it."""
        return _parse(self._doubled(self.text))

    @cached_property
    def inside(self) -> _Piece:
        """The line where it continues a quoted cell."""
        return _parse(self._doubled(f'"{self.text}')) if '"' in self.text else _Piece(_OPEN, [self.text])

    def _doubled(self, text: str) -> str:
        return unescape(text) if self._backslash else text

    @cached_property
    def cells(self) -> list[str]:
        """The cells of the line alone; where its quotes are wrong, as if they were ordinary characters."""
        if self.outside.ends == _CLOSED:
            return self.outside.cells
        return next(csv.reader((self.text,), quoting=csv.QUOTE_NONE))


def has_escaped_quote(text: str) -> bool:
    """Whether a quoted cell of the record holds a quote that a backslash escapes, and not one of two backslashes."""
    return ESCAPED in text and any('"' in _ESCAPE.findall(cell) for cell in QUOTED_CELL.findall(text))


def unescape(text: str) -> str:
    r"""The record in the usual form: inside quoted cells `\"` becomes `""`, and `\\` becomes `\`. Other backslashes stay."""
    if "\\" not in text:
        return text
    return QUOTED_CELL.sub(lambda cell: _ESCAPE.sub(_unescaped, cell[0]), text)


def _unescaped(found: re.Match[str]) -> str:
    return '""' if found[1] == '"' else "\\"


def _parse(text: str) -> _Piece:
    for ends, whole in ((_CLOSED, text), (_OPEN, f'{text}"')):
        try:
            return _Piece(ends, next(csv.reader((whole,), strict=True)))
        except csv.Error:
            continue
    return _Piece(_BROKEN, [])
