"""A file as records: JSON Lines or CSV, gzip or not, one record in memory at a time.

A record that cannot be read carries the reason and goes to quarantine. Refused means that no part of the file can be used.
Reasons are short and from a closed set, because they are counted.
"""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, Format
from recipekit.cleaning import clean_name
from servicekit.limits import COLUMN_CHARACTERS
from services.dataprep.pipeline.csv_dialect import Dialect, dialect_of
from services.dataprep.pipeline.csv_records import ESCAPED, UNTOLD, CsvRecord, CsvRecords, Shape
from services.dataprep.pipeline.csv_shape import shape_of

LONGEST_LINE = 4 << 20
"""Bytes."""
LONGEST_RAW = 10_000
"""Characters of a bad record that the quarantine keeps."""

_NEXT_LINE = "\x85"
"""Stands for a bare CR inside a cell, which the module csv does not take. Cleaning makes a line end of both."""
_MARK = b"\xef\xbb\xbf"
"""The byte order mark of UTF-8."""

csv.field_size_limit(LONGEST_LINE)


class Refused(Exception):
    """The file cannot become a snapshot. The text gives the reason and what to do next."""


class BadRow(Exception):
    """One row cannot be kept. The text is the reason that is counted, the note is for the reader of the quarantine."""

    def __init__(self, reason: str, note: str = "") -> None:
        super().__init__(reason)
        self.note = note


class Record(NamedTuple):
    """One record of the file: a row, or None and the reason why it cannot be read. `line` is its first line, from 1.

    `note` is for the reader of the quarantine; it is not counted, so it may name lines.
    """

    line: int
    raw: str
    row: dict[str, Any] | None
    reason: str = ""
    note: str = ""


class CsvForm(NamedTuple):
    """How a CSV writes quotes, and what its cells look like."""

    dialect: Dialect
    shape: Shape


PLAIN_CSV = CsvForm(Dialect.DOUBLED, UNTOLD)


def find_form(
    path: Path, file_format: Format.ValueType, unpacked_limit: int, check: Callable[[], None]
) -> CsvForm | None:
    """The form of a CSV; None for another format. A file that read_records() refuses is refused there.

    The file is scanned, and parsed where a backslash stands before a quote or a quoted cell has several lines. `check` is
    called at each line, and stops the reading by its exception.
    """
    if file_format != FORMAT_CSV:
        return None

    def checked_lines() -> Iterator[bytes]:
        for line in _lines(path, unpacked_limit):
            check()
            yield line

    escaped = several_lines = False
    try:
        for line in checked_lines():
            escaped = escaped or ESCAPED.encode() in line
            several_lines = several_lines or line.count(b'"') % 2 == 1 or b"\r" in line.rstrip(b"\r\n")
            if escaped and several_lines:
                break
        dialect = dialect_of(lambda: _pieces(checked_lines()), LONGEST_LINE) if escaped else Dialect.DOUBLED
        backslash = dialect is Dialect.BACKSLASH
        if not (several_lines or backslash):
            return CsvForm(dialect, UNTOLD)
        return CsvForm(dialect, shape_of(_pieces(checked_lines()), LONGEST_LINE, backslash))
    except Refused:
        return PLAIN_CSV


def read_records(
    path: Path, file_format: Format.ValueType, unpacked_limit: int, form: CsvForm | None = None
) -> Iterator[Record]:
    """Every record of the file in order, without blank lines. Raises Refused at the first call or at any later record."""
    lines = _lines(path, unpacked_limit)
    return _csv_records(lines, form or PLAIN_CSV) if file_format == FORMAT_CSV else _json_records(lines)


def _lines(path: Path, unpacked_limit: int) -> Iterator[bytes]:
    """Lines with their LF, without the byte order mark. A line that is too long is cut and has no LF."""
    first, total = True, 0
    with path.open("rb") as packed:
        zipped = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        with cast(BinaryIO, gzip.GzipFile(fileobj=packed)) if zipped else packed as file:
            while line := _read_line(file):
                if len(line) > LONGEST_LINE and not line.endswith(b"\n"):
                    while (rest := _read_line(file)) and total <= unpacked_limit:
                        total += len(rest)
                        if rest.endswith(b"\n"):
                            break
                total += len(line)
                if total > unpacked_limit:
                    raise Refused(
                        f"the file holds more than {unpacked_limit:,} bytes: import less, "
                        "or raise MILLSTREAM_UNPACKED_LIMIT_BYTES"
                    )
                yield _without_mark(line) if first else line
                first = False


def _read_line(file: BinaryIO) -> bytes:
    try:
        return file.readline(LONGEST_LINE + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Refused(f"the gzip cannot be read ({error}): compress the file again, then import it") from None


def _without_mark(line: bytes) -> bytes:
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused("the file is UTF-16: save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`), then import it")
    while line.startswith(_MARK):  # files that were joined, or marked twice
        line = line.removeprefix(_MARK)
    return line


# --- JSON Lines


def _json_records(lines: Iterable[bytes]) -> Iterator[Record]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield Record(number, _raw(line), _json_row(line))
            except BadRow as bad:
                yield Record(number, _raw(line), None, str(bad))


def _json_row(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise BadRow("line too long")
    try:
        row = json.loads(line.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except RecursionError:
        raise BadRow("nested too deeply") from None
    except json.JSONDecodeError:
        raise BadRow("not JSON") from None
    except ValueError:  # Python reads no integer of more than 4,300 digits
        raise BadRow("a number is too long") from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return _object([(clean_name(name), value) for name, value in row.items()])


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise BadRow(f"{name} is no JSON: write null")


def _finite(text: str) -> float:
    """A decimal. One that no double can hold would become infinity, and null in the row."""
    number = float(text)
    if math.isinf(number):
        raise BadRow("a number is out of range")
    return number


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadRow("a key appears twice")
    return made


def _raw(line: bytes) -> str:
    """The line as text for the quarantine; bytes that are not UTF-8 become escapes."""
    return line[: 4 * LONGEST_RAW].decode(errors="backslashreplace").rstrip("\r\n")[:LONGEST_RAW]


# --- CSV


def _pieces(lines: Iterable[bytes]) -> Iterator[str]:
    """The file's lines as text."""
    columns = 0
    for number, line in enumerate(lines, 1):
        if len(line) > LONGEST_LINE:
            raise Refused(
                f"line {number} is longer than {LONGEST_LINE:,} bytes: shorten it, or use line ends of LF or CR LF"
            )
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise Refused(
                f"line {number} is not UTF-8 (byte 0x{line[error.start]:02x}): save the file as UTF-8 "
                "(`iconv -f WINDOWS-1252 -t UTF-8`, if that is what it is), then import it"
            ) from None
        body = text.rstrip("\r\n")
        columns = columns or _count_cells(body.partition("\r")[0])
        if "\r" in body:
            yield from _split_at_returns(body, columns)
        else:
            yield f"{body}\n" if text.endswith("\r\r\n") else text


def _split_at_returns(line: str, columns: int) -> Iterator[str]:
    """The lines that end at bare CRs, as some old programs write them; or the one line, if the CRs are part of a cell."""
    parts = line.split("\r")
    if 2 * sum(_count_cells(part) == columns for part in parts) > sum(map(bool, parts)):
        yield from (f"{part}\n" for part in parts)
    else:
        yield line.replace("\r", _NEXT_LINE) + "\n"


def _count_cells(line: str) -> int:
    return len(next(csv.reader((line,)), ()))


def _csv_records(lines: Iterable[bytes], form: CsvForm) -> Iterator[Record]:
    header: list[str] = []
    backslash = form.dialect is Dialect.BACKSLASH
    for found in CsvRecords(_pieces(lines), LONGEST_LINE, backslash, form.shape):
        if header:
            yield _csv_record(found, header)
        elif found.cells:
            header = _header(found.cells)
        else:
            _check_commas(found.lines)
            raise Refused(
                f"a quote of the header in line {found.first} is wrong or never closed: close it, and double the quotes "
                "inside quoted cells"
            )


def _csv_record(found: CsvRecord, header: list[str]) -> Record:
    raw = "".join(found.lines).rstrip("\r\n")[:LONGEST_RAW]
    if found.cells:
        if _names(found.cells) == header:
            return Record(found.first, raw, None, "the header again: files were joined")
        return Record(found.first, raw, dict(zip(header, found.cells, strict=True)))
    note = ""
    if found.last > found.first:
        note = f"the record seemed to have the lines {found.first} to {found.last}: all but the first were read again"
    return Record(found.first, raw, None, found.reason, note)


def _check_commas(header: Sequence[str]) -> None:
    """Refuse a header that has no comma but another usual separator."""
    text = "".join(header)
    for mark in ";\t|":
        if mark in text and "," not in text:
            raise Refused(f"the columns are separated by {mark!r}: save the file with commas, then import it")


def _names(cells: Sequence[str]) -> list[str]:
    return [clean_name(cell) for cell in cells]


def _header(cells: Sequence[str]) -> list[str]:
    for number, cell in enumerate(cells, 1):
        if len(cell) > COLUMN_CHARACTERS:
            raise Refused(
                f"the name of column {number} has {len(cell):,} characters, of {COLUMN_CHARACTERS} at most: shorten it, or "
                "close its quote"
            )
    names = _names(cells)
    if len(names) == 1:
        _check_commas(names)
    known: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name:
            raise Refused(f"column {number} has no name: the first line must name every column")
        if name in known:
            raise Refused(f"two columns are named {name!r}: rename one")
        known.add(name)
    return names
