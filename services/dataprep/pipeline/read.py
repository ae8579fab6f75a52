"""A file as records: JSON Lines or CSV, gzip or not, one record in memory at a time.

A record that cannot be read carries the reason and goes to quarantine. Refused means that no part of the file can be used.
Reasons are short and from a closed set, because they are counted.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, Format
from recipekit.edges import strip_edges
from recipekit.text_limits import compose
from servicekit.limits import COLUMN_CHARACTERS
from services.dataprep.pipeline.csv_dialect import Dialect, dialect_of
from services.dataprep.pipeline.csv_records import ESCAPED, CsvRecord, CsvRecords

LONGEST_LINE = 4 << 20
"""Bytes."""
LONGEST_RAW = 10_000
"""Characters of a bad record that the quarantine keeps."""

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


def find_dialect(
    path: Path, file_format: Format.ValueType, unpacked_limit: int, check: Callable[[], None]
) -> Dialect | None:
    """How the CSV writes quotes; None for another format. A file that read_records() refuses is refused there.

    A file without a backslash before a quote is only scanned; another is parsed. `check` is called at each line, and stops
    the reading by its exception.
    """
    if file_format != FORMAT_CSV:
        return None

    def checked_lines() -> Iterator[bytes]:
        for line in _lines(path, unpacked_limit):
            check()
            yield line

    try:
        if not any(ESCAPED.encode() in line for line in checked_lines()):
            return Dialect.DOUBLED
        return dialect_of(lambda: _pieces(checked_lines()), LONGEST_LINE)
    except Refused:
        return Dialect.DOUBLED


def read_records(
    path: Path, file_format: Format.ValueType, unpacked_limit: int, dialect: Dialect | None = None
) -> Iterator[Record]:
    """Every record of the file in order, without blank lines. Raises Refused at the first call or at any later record."""
    lines = _lines(path, unpacked_limit)
    return _csv_records(lines, dialect) if file_format == FORMAT_CSV else _json_records(lines)


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
    return line.removeprefix(b"\xef\xbb\xbf")


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
        row = json.loads(line.decode(), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError:
        raise BadRow("not UTF-8") from None
    except RecursionError:
        raise BadRow("nested too deeply") from None
    except ValueError:
        raise BadRow("not JSON") from None
    if not isinstance(row, dict):
        raise BadRow("not a JSON object")
    return row


def _no_constant(name: str) -> None:
    """Refuse NaN and Infinity, which Python reads and JSON does not have."""
    raise BadRow("not JSON")


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
        # Some old programs end lines with a bare CR.
        yield from io.StringIO(text, newline="") if "\r" in text else (text,)


def _csv_records(lines: Iterable[bytes], dialect: Dialect | None) -> Iterator[Record]:
    header: list[str] = []
    for found in CsvRecords(_pieces(lines), LONGEST_LINE, backslash=dialect is Dialect.BACKSLASH):
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


def _csv_record(found: CsvRecord, header: Sequence[str]) -> Record:
    raw = "".join(found.lines).rstrip("\r\n")[:LONGEST_RAW]
    if found.cells:
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


def _header(cells: Sequence[str]) -> list[str]:
    for number, cell in enumerate(cells, 1):
        if len(cell) > COLUMN_CHARACTERS:
            raise Refused(
                f"the name of column {number} has {len(cell):,} characters, of {COLUMN_CHARACTERS} at most: shorten it, or "
                "close its quote"
            )
    names = [compose(strip_edges(cell)) for cell in cells]
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
