"""Rows of a snapshot's parts: JSON Lines, gzip, split on LF only."""

import asyncio
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.errors import InvalidArgument
from servicekit.blobs.port import Blobs


def pack_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """The bytes of a part: the same rows always give the same bytes."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, sort_keys=True).encode() + b"\n")
    return packed.getvalue()


def unpack_rows(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(data).split(b"\n") if line]


async def read_part(blobs: Blobs, part: DatasetPart) -> list[dict[str, Any]]:
    """The rows of a part, verified. Raises NotFound, or InvalidArgument when the bytes are not those of its digest."""
    data = await blobs.get(part.key)
    if hashlib.sha256(data).hexdigest() != part.digest:
        raise InvalidArgument(f"{part.key} does not hold the bytes that its snapshot names: it was damaged")
    return await asyncio.to_thread(unpack_rows, data)


async def read_split(blobs: Blobs, snapshot: Snapshot, split: str) -> list[dict[str, Any]]:
    """All rows of a split: train, validation, test or quarantine."""
    rows: list[dict[str, Any]] = []
    for part in snapshot.parts:
        if part.split == split and part.table in ("", "rows"):
            rows += await read_part(blobs, part)
    return rows
