"""Files that users write: YAML specs, and rows as JSON Lines or CSV. Errors name the file and the place in it."""

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from millstream.cli.command import Failed
from millstream.client.inputs import check_values
from millstream.errors import InvalidArgument

M = TypeVar("M", bound=Message)
LARGEST_SPEC = 1 << 20
"""Bytes of its file."""
MOST_VALUES = 20_000
"""Values of a spec, each alias counted as what it stands for: a few lines of YAML can stand for billions."""
LARGEST_ROWS = 1 << 30
"""Bytes of a file of rows, unpacked."""
_MARK = b"\xef\xbb\xbf"


class _Loader(yaml.SafeLoader):
    """YAML that rejects a duplicate key: plain YAML would silently take the later one."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    known: set[str] = set()
    for key, _ in node.value:
        name = repr(loader.construct_object(key))
        if name in known:
            raise yaml.constructor.ConstructorError(None, None, f"{name} appears twice", node.start_mark)
        known.add(name)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_spec(path: Path, kind: type[M]) -> M:
    """A message from YAML. Raises Failed naming the file and the field."""
    text = _text(path, LARGEST_SPEC)
    try:
        found = yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that no calendar has
        raise Failed(f"{path}: this is no YAML: {error}") from None
    except RecursionError:
        raise Failed(f"{path}: it is nested too deeply") from None
    if not isinstance(found, dict):
        raise Failed(
            f"{path}: it must hold fields of {kind.DESCRIPTOR.name}, such as `{kind.DESCRIPTOR.fields[0].name}: …`"
        )
    if _has_more_values(found, MOST_VALUES):
        raise Failed(f"{path}: it stands for more than {MOST_VALUES:,} values: write fewer aliases")
    try:
        check_values(found, kind.DESCRIPTOR.name)
        return ParseDict(found, kind())
    except (InvalidArgument, ParseError) as error:
        raise Failed(f"{path}: {error}") from None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows as `datasets import` reads them: JSON Lines or CSV, gzip or not; `-` reads standard input.

    Raises Failed naming the file and the line.
    """
    text = _text(path, LARGEST_ROWS)
    return list(_csv_rows(path, text) if _is_csv(path, text) else _json_rows(path, text))


def _is_csv(path: Path, text: str) -> bool:
    """By the ending of the file's name, else by how the text begins."""
    name = path.name.lower().removesuffix(".gz")
    return name.endswith(".csv") or (not name.endswith(".jsonl") and not text.lstrip().startswith(("{", "[")))


def _json_rows(path: Path, text: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() would also break at U+2028, inside a text
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise Failed(f"{path} line {number}: this is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise Failed(f'{path} line {number}: a row is an object, such as {{"text": "…"}}')
        yield row


def _csv_rows(path: Path, text: str) -> Iterator[dict[str, Any]]:
    """An empty cell is a value that is missing, as at an import."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                where = f"{path} line {reader.line_num}"
                raise Failed(f"{where}: {len(cells)} cells, but the header names {len(header)} columns")
            yield {name: cell for name, cell in zip(header, cells, strict=True) if cell != ""}
    except csv.Error as error:
        raise Failed(f"{path} line {reader.line_num}: this is no CSV: {error}") from None


def _text(path: Path, most: int) -> str:
    """A file's text, unpacked, without byte order marks. Raises Failed for another encoding, and OSError."""
    data = sys.stdin.buffer.read(most + 1) if str(path) == "-" else _read(path, most)
    if data.startswith(b"\x1f\x8b"):
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
                data = file.read(most + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise Failed(f"{path}: the gzip cannot be read ({error}): compress it again") from None
    if len(data) > most:
        raise Failed(f"{path}: it has more than {most:,} bytes")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Failed(f"{path} is UTF-16: save it as UTF-8 (`iconv -f UTF-16 -t UTF-8`)")
    while data.startswith(_MARK):
        data = data.removeprefix(_MARK)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise Failed(
            f"{path} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}): save the file as UTF-8 "
            "(`iconv -f WINDOWS-1252 -t UTF-8`, if that is what it is)"
        ) from None


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)


def _has_more_values(value: object, most: int) -> bool:
    open_values, count = [value], 0
    while open_values:
        count += 1
        if count > most:
            return True
        one = open_values.pop()
        if isinstance(one, Mapping):
            open_values += one.values()
        elif isinstance(one, list):
            open_values += one
    return False


def read_mapping(path: Path) -> dict[str, Any]:
    """A mapping from YAML; whole numbers stay int. Raises Failed naming the file."""
    return dict(MessageToDict(read_spec(path, Struct)))
