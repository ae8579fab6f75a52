"""The parts of a snapshot: JSON Lines in gzip, split on LF only, written to a file and read from the store.

The same rows always give the same bytes, so a part is named by its digest and an import may be repeated.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.errors import InvalidArgument
from millstream.files import file_digest
from servicekit.blobs.port import Blobs
from servicekit.pools import Pool

# json.dumps would make an encoder for each row.
_encode = json.JSONEncoder(ensure_ascii=False, sort_keys=True, allow_nan=False).encode
LONGEST_ROW = 8 << 20
"""Bytes of a row's line. ListRows must fit it into a gRPC message (16 MiB)."""


def encode_row(row: Mapping[str, Any]) -> bytes:
    """The row's line, without its LF. Raises ValueError for a number that is not finite, UnicodeEncodeError for a lone
    surrogate."""
    return _encode(row).encode()


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


def rows_of(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each row of a part on disk, beside its line without LF, one in memory at a time. Blocking."""
    with gzip.open(path, "rb") as file:
        for line in file:
            yield line.removesuffix(b"\n"), json.loads(line)


def unpack_rows(data: bytes) -> list[dict[str, Any]]:
    """The rows in the bytes of a part. Blocking."""
    with gzip.GzipFile(fileobj=BytesIO(data)) as lines:
        return [json.loads(line) for line in lines]


async def read_part(blobs: Blobs, part: DatasetPart) -> list[dict[str, Any]]:
    """The rows of a part. Raises NotFound, or InvalidArgument when its bytes do not have its digest."""
    return await asyncio.to_thread(_verified_rows, part, await blobs.get(part.key))


def _verified_rows(part: DatasetPart, data: bytes) -> list[dict[str, Any]]:
    if hashlib.sha256(data).hexdigest() != part.digest:
        raise _damaged(part)
    return unpack_rows(data)


def parts_of(snapshot: Snapshot, split: str) -> list[DatasetPart]:
    """The parts that hold the rows of a split: train, validation, test or quarantine."""
    return [part for part in snapshot.parts if part.split == split and part.table in ("", "rows")]


async def download_part(blobs: Blobs, part: DatasetPart, path: Path, pool: Pool | None = None) -> None:
    """A part as a file, for rows_of(); a thread of the pool computes its digest. Raises as read_part() does, and OSError."""
    await blobs.download(part.key, path)
    found = await (pool.run(file_digest, path) if pool else asyncio.to_thread(file_digest, path))
    if found != part.digest:
        path.unlink(missing_ok=True)
        raise _damaged(part)


async def download_split(blobs: Blobs, snapshot: Snapshot, split: str, folder: Path) -> list[Path]:
    """The parts of a split as new files in the folder, for rows_of(). Raises as download_part() does."""
    paths: list[Path] = []
    for part in parts_of(snapshot, split):
        paths.append(folder / f"{split}-{len(paths)}.jsonl.gz")
        await download_part(blobs, part, paths[-1])
    return paths


async def read_split(blobs: Blobs, snapshot: Snapshot, split: str) -> list[dict[str, Any]]:
    """All rows of a split in memory. Raises as read_part() does."""
    rows: list[dict[str, Any]] = []
    for part in parts_of(snapshot, split):
        rows += await read_part(blobs, part)
    return rows


def _damaged(part: DatasetPart) -> InvalidArgument:
    return InvalidArgument(f"{part.key} does not have the digest that its snapshot names: it was damaged")
