"""Rows of a snapshot, page by page, as they are stored. The memory of a call is bounded by a page, not by the split.

Threads of their own read the rows. A page token is a place in a part; the file that the last page left open there is kept
for the next one, so that paging through a part reads it once.
"""

import base64
import gzip
import json
import zlib
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from google.protobuf.struct_pb2 import Struct

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.dataset_service_pb2 import ListRowsResponse, RowText
from millstream.errors import Unavailable
from servicekit.blobs.parts import LONGEST_ROW, parts_of
from servicekit.blobs.port import Blobs
from servicekit.limits import PAGE_BYTES
from servicekit.paging import wrong_token
from servicekit.pools import Pool
from servicekit.structs import struct_of
from services.dataprep.part_files import PartFiles

LONGEST_STRUCT = 1 << 20
"""Bytes of text. A row as values can be many times larger than its text."""
BEGINNING = 64 << 10
"""Bytes that are shown of a row that is too long to be sent."""
OPEN_FILES = 16
THREADS = 2


class Place(NamedTuple):
    """Where a page begins: a snapshot, a split, the number of a part of that split, and a byte of its unpacked text."""

    number: int = 0
    snapshot_id: str = ""
    split: str = ""
    part: int = 0
    offset: int = 0

    def token(self) -> str:
        """The place as a page token."""
        return base64.urlsafe_b64encode("/".join(map(str, self)).encode()).decode()


def place_of(token: str, number: int, split: str) -> Place:
    """The place that a token names; without one the beginning. Raises InvalidArgument for one of another listing."""
    if not token:
        return Place(number, "", split)
    try:
        found, snapshot_id, of_split, part, offset = base64.urlsafe_b64decode(token).decode("ascii").split("/")
        place = Place(int(found), snapshot_id, of_split, int(part), int(offset))
    except ValueError:
        raise wrong_token() from None
    if place.split != split or number not in (0, place.number) or min(place.part, place.offset) < 0:
        raise wrong_token()
    return place


class RowPages:
    """Reads pages of rows. The folder belongs to this object alone."""

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self._pool = Pool("rows", THREADS)
        self._files = PartFiles(blobs, folder, self._pool)
        self._open: OrderedDict[tuple[str, int], gzip.GzipFile] = OrderedDict()
        """(digest of a part, offset) → the open file there, the last used at the end."""

    async def page(self, snapshot: Snapshot, place: Place, size: int) -> ListRowsResponse:
        """Up to `size` rows from a place on. Raises InvalidArgument for a place that the snapshot does not have."""
        if place.snapshot_id not in ("", snapshot.snapshot_id):
            raise wrong_token()
        parts = parts_of(snapshot, place.split)
        if place.part and place.part >= len(parts):
            raise wrong_token()
        response, offset = ListRowsResponse(), place.offset
        for number in range(place.part, len(parts)):
            part = parts[number]
            path = await self._files.fetch(part)
            file = self._open.pop((part.digest, offset), None)
            try:
                if file is None:
                    file = await self._pool.run(_open, path, offset)
                ended = await self._pool.run(_read, file, response, size)
            except (OSError, EOFError, zlib.error) as error:
                self._files.drop(part.digest)
                raise Unavailable(
                    f"the copy of {part.key} on this replica's disk cannot be read ({error}): ask again"
                ) from None
            if not ended:
                offset = file.tell()
                self._keep(part.digest, offset, file)
                place = Place(snapshot.number, snapshot.snapshot_id, place.split, number, offset)
                response.next_page_token = place.token()
                return response
            file.close()
            offset = 0
        return response

    def _keep(self, digest: str, offset: int, file: gzip.GzipFile) -> None:
        if replaced := self._open.pop((digest, offset), None):
            replaced.close()
        self._open[digest, offset] = file
        if len(self._open) > OPEN_FILES:
            self._open.popitem(last=False)[1].close()


def _open(path: Path, offset: int) -> gzip.GzipFile:
    """The part, open at the beginning of a row. Blocking."""
    file = gzip.GzipFile(path)
    if offset:
        file.seek(offset - 1)
        if file.read(1) != b"\n":
            file.close()
            raise wrong_token()
    return file


def _read(file: gzip.GzipFile, response: ListRowsResponse, size: int) -> bool:
    """Add rows until the page is full; True where the part has no more. Blocking.

    The row that reaches PAGE_BYTES is the last: with one of LONGEST_ROW the page stays below what a gRPC message may have.
    """
    spent = sum(text.ByteSize() for text in response.texts) + sum(row.ByteSize() for row in response.rows)
    while file.peek(1):
        if len(response.texts) == size or spent >= PAGE_BYTES:
            return False
        text = _text(file)
        row = Struct() if text.size_bytes > LONGEST_STRUCT else struct_of(json.loads(text.json))
        response.texts.append(text)
        response.rows.append(row)
        spent += text.ByteSize() + row.ByteSize()
    return True


def _text(file: gzip.GzipFile) -> RowText:
    line = file.readline(LONGEST_ROW + 1)
    if line.endswith(b"\n") or len(line) <= LONGEST_ROW:
        line = line.removesuffix(b"\n")
        return RowText(json=line.decode(), size_bytes=len(line))
    beginning, length = line[:BEGINNING], len(line)
    while not line.endswith(b"\n") and (line := file.readline(LONGEST_ROW)):
        length += len(line)
    length -= line.endswith(b"\n")
    return RowText(json=beginning.decode(errors="ignore"), size_bytes=length, cut=True)
