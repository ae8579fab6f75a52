"""How quotes inside the quoted cells of a CSV are written: doubled, or escaped by a backslash throughout the file."""

import re
from collections.abc import Callable, Iterable
from enum import StrEnum

from services.dataprep.pipeline.csv_records import ESCAPED, QUOTED_CELL, CsvRecord, CsvRecords, has_escaped_quote

_PAIR = re.compile(r"\\.", re.DOTALL)
"""A backslash, and what it stands before."""


class Dialect(StrEnum):
    """The separator and the quotes, in words."""

    DOUBLED = "comma, doubled quotes"
    BACKSLASH = "comma, quotes escaped by a backslash"


def dialect_of(lines: Callable[[], Iterable[str]], longest: int) -> Dialect:
    """BACKSLASH where its meaning is plain: records are whole if a backslash escapes quotes, and only then.

    Against it speaks, anywhere in the file: a record with an escaped quote that is whole without the escape too, such as
    `"C:\\",good`, a doubled quote, or an escaped one outside a quoted cell. A record that is broken either way says nothing.
    The lines are read twice, in linear time; `longest` bounds a record, in bytes.
    """
    if any(record.cells and has_escaped_quote(_text(record)) for record in CsvRecords(lines(), longest)):
        return Dialect.DOUBLED
    found = False
    for record in CsvRecords(lines(), longest, backslash=True):
        text = _text(record)
        if _has_doubled_quote(text) or ESCAPED in QUOTED_CELL.sub("", text):
            return Dialect.DOUBLED
        found = found or bool(record.cells and has_escaped_quote(text))
    return Dialect.BACKSLASH if found else Dialect.DOUBLED


def _text(record: CsvRecord) -> str:
    return "".join(record.lines)


def _has_doubled_quote(text: str) -> bool:
    """Whether a quoted cell has two quotes side by side after its first, none of them escaped."""
    return '""' in text and any('""' in _PAIR.sub("", cell)[1:] for cell in QUOTED_CELL.findall(text))
