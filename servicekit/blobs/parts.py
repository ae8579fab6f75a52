"""The parts of a snapshot: JSON Lines in gzip, split on LF only, written to a file and read from the store.

The same rows always give the same bytes, so a part is named by its digest and an import may be repeated.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.errors import InvalidArgument
from millstream.files import file_digest
from servicekit.blobs.port import Blobs


def encode_row(row: Mapping[str, Any]) -> bytes:
    """The row's line, without its LF. Raises ValueError for a number that is not finite, UnicodeEncodeError for a lone
    surrogate."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()


class PartFile(NamedTuple):
    """A part on disk; its digest is sha256 in hex."""

    split: str
    path: Path
    digest: str
    size_bytes: int
    rows: int


class PartWriter:
    """Writes the part of one split to `{folder}/{split}.jsonl.gz`. A context manager: part() is complete after it."""

    def __init__(self, folder: Path, split: str) -> None:
        self.split, self.path, self.rows = split, folder / f"{split}.jsonl.gz", 0

    def __enter__(self) -> Self:
        self._file = self.path.open("wb")
        # No name and no time in the header, or the same rows would not give the same bytes.
        self._gzip = gzip.GzipFile(filename="", fileobj=self._file, mode="wb", compresslevel=6, mtime=0)
        return self

    def write(self, line: bytes) -> None:
        """Add a line of encode_row()."""
        self._gzip.write(line + b"\n")
        self.rows += 1

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._gzip.close()
        self._file.close()

    def part(self) -> PartFile:
        """The finished file. Blocking: it reads the file for its digest."""
        return PartFile(self.split, self.path, file_digest(self.path), self.path.stat().st_size, self.rows)


def unpack_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows in the bytes of a part. Blocking."""
    return [json.loads(line) for line in gzip.decompress(data).split(b"\n") if line]


async def read_part(blobs: Blobs, part: DatasetPart) -> list[dict[str, Any]]:
    """The rows of a part. Raises NotFound, or InvalidArgument when its bytes do not have its digest."""
    data = await blobs.get(part.key)
    if hashlib.sha256(data).hexdigest() != part.digest:
        raise _damaged(part)
    return await asyncio.to_thread(unpack_rows, data)


def rows_in(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a part on disk, one by one. Blocking."""
    with gzip.open(path) as lines:
        for line in lines:
            yield json.loads(line)


async def download_split(blobs: Blobs, snapshot: Snapshot, split: str, folder: Path) -> list[Path]:
    """The parts of a split as new files in the folder, for rows_in(). Raises as read_part() does, and OSError."""
    paths: list[Path] = []
    for part in _parts_of(snapshot, split):
        path = folder / f"{split}-{len(paths)}.jsonl.gz"
        await blobs.download(part.key, path)
        if await asyncio.to_thread(file_digest, path) != part.digest:
            raise _damaged(part)
        paths.append(path)
    return paths


async def read_split(blobs: Blobs, snapshot: Snapshot, split: str) -> list[dict[str, Any]]:
    """All rows of a split: train, validation, test or quarantine. Raises as read_part() does."""
    rows: list[dict[str, Any]] = []
    for part in _parts_of(snapshot, split):
        rows += await read_part(blobs, part)
    return rows


def _parts_of(snapshot: Snapshot, split: str) -> list[DatasetPart]:
    return [part for part in snapshot.parts if part.split == split and part.table in ("", "rows")]


def _damaged(part: DatasetPart) -> InvalidArgument:
    return InvalidArgument(f"{part.key} does not have the digest that its snapshot names: it was damaged")
