"""The object store in a folder, for a laptop, a test, or one machine with a shared volume.

An object is one file. It is written and synced under `.tmp`, which no key can name, then atomically linked (put_if_absent)
or renamed (put) into its place. A process that dies on the way leaves at most a file in `.tmp`. The file system
decides every race, so threads and processes need no lock. It must be case-sensitive and support hard links (check() tries).
"""

import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from typing_extensions import override

from millstream.errors import InvalidArgument, NotFound, Unavailable
from servicekit.blobs.port import CALLS, CHUNK, SEGMENT, TRANSFERS, Blobs, Listed, check_folder, check_key
from servicekit.blobs.tree import Name, Tree
from servicekit.files import as_unavailable, write_synced
from servicekit.pools import Pool

T = TypeVar("T")

STALE_SECONDS = 86_400.0
_LISTED_AT_ONCE = 512
_TRIES = 100
_NAME = re.compile(SEGMENT)
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DirectoryBlobs(Blobs):
    """Objects as files under `root`, which the first write creates."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self._tree = Tree(self.root)
        self._temporary = self.root / ".tmp"
        self._collected = -STALE_SECONDS
        self._calls, self._transfers = Pool("blobs-calls", CALLS), Pool("blobs-transfers", TRANSFERS)

    @override
    async def get(self, key: str) -> bytes:
        return await self._calls.run(self._get, check_key(key))

    @override
    async def put(self, key: str, data: bytes) -> None:
        await self._calls.run(self._store, check_key(key), BytesIO(data), exclusive=False)

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        return await self._calls.run(self._store, check_key(key), BytesIO(data), exclusive=True)

    @override
    async def delete(self, key: str) -> None:
        await self._calls.run(self._delete, check_key(key))

    @override
    async def exists(self, key: str) -> bool:
        with _as_unavailable(self._path(check_key(key))):
            return await self._calls.run(self._tree.is_file, key)

    @override
    def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        folder = prefix[: prefix.rfind("/") + 1]
        return _from_thread(self._calls, self._walk(folder, prefix, after) if _is_folder(folder) else iter(()))

    @override
    def children(self, prefix: str) -> AsyncIterator[str]:
        return _from_thread(self._calls, self._children(check_folder(prefix)))

    @override
    async def upload(self, key: str, path: Path) -> None:
        def store() -> None:
            with path.open("rb") as source:
                self._store(key, source, exclusive=False)

        check_key(key)
        await self._transfers.run(store)

    @override
    async def download(self, key: str, path: Path) -> None:
        await self._transfers.run(self._download, check_key(key), path)

    @override
    async def read(self, key: str) -> AsyncIterator[bytes]:
        file = await self._transfers.run(self._open, check_key(key))
        with file, _as_unavailable(self._path(key)):
            while chunk := await self._transfers.run(file.read, CHUNK):
                yield chunk

    @override
    async def check(self) -> None:
        await self._calls.run(self._check)

    def _path(self, key: str) -> Path:
        return self.root / key

    def _open(self, key: str) -> BinaryIO:
        with _as_unavailable(self._path(key)):
            try:
                return self._tree.open(key)
            except _ABSENT:
                raise NotFound(f"no object {key}", key=key) from None

    def _get(self, key: str) -> bytes:
        with _as_unavailable(self._path(key)), self._open(key) as file:
            return file.read()

    def _download(self, key: str, path: Path) -> None:
        beside = path.with_name(f".{uuid4().hex}.part")
        with self._open(key) as source, _as_unavailable(path):
            try:
                with beside.open("xb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)

    def _store(self, key: str, source: BinaryIO, *, exclusive: bool) -> bool:
        """Write a temporary file, then link or rename it into place; False when `exclusive` and the key is taken."""
        with _as_unavailable(self.root):
            if exclusive and self._tree.is_file(key):
                return False
            written = self._new_temporary()
            try:
                write_synced(written, source)
                return self._place(written, key, exclusive)
            finally:
                written.unlink(missing_ok=True)

    def _place(self, written: Path, key: str, exclusive: bool) -> bool:
        folder, _, name = key.rpartition("/")
        for _ in range(_TRIES):
            try:
                with self._tree.folder(folder, make=True) as opened:
                    if exclusive:
                        os.link(written, name, dst_dir_fd=opened)
                    else:
                        os.replace(written, name, dst_dir_fd=opened)
                    os.fsync(opened)
                    return True
            except FileNotFoundError:
                continue  # a delete() removed the empty folder between the two steps: retry
            except (FileExistsError, IsADirectoryError):
                if self._tree.is_folder(key):
                    self._free_folder(key)
                elif exclusive:
                    return written.stat().st_nlink > 1  # over NFS the reply to a link() that succeeded can be lost
        raise Unavailable(
            f"{self._path(key)} could not be stored: something keeps removing its folder; find and stop it"
        )

    def _free_folder(self, key: str) -> None:
        """Remove empty folders that a deleted or unfinished object left. Raises InvalidArgument if they hold objects."""
        if next(self._walk(f"{key}/"), None):
            raise InvalidArgument(f"{key.rpartition('/')[2]!r} is the folder of other keys", field="key")
        self._tree.remove_empty(key)

    def _new_temporary(self) -> Path:
        self._temporary.mkdir(parents=True, exist_ok=True)
        if self._temporary.is_symlink():
            raise Unavailable(f"{self._temporary} is a link: remove it, so that nothing is written elsewhere")
        if time.monotonic() - self._collected > STALE_SECONDS:
            self._collected = time.monotonic()
            self._collect_stale()
        return self._temporary / uuid4().hex

    def _collect_stale(self) -> None:
        """Remove the files of killed processes: the file of a live upload is written to, so it is never a day old."""
        with os.scandir(self._temporary) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > STALE_SECONDS:
                        os.unlink(entry.path)

    def _delete(self, key: str) -> None:
        folder, _, name = key.rpartition("/")
        with _as_unavailable(self._path(key)):
            try:
                with self._tree.folder(folder) as opened:
                    os.unlink(name, dir_fd=opened)
                    os.fsync(opened)
            except _ABSENT:
                return
            except PermissionError:
                if self._tree.is_folder(key):  # POSIX: unlink() of a folder may fail with EPERM
                    return
                raise
            while folder and self._tree.remove_folder(folder):
                folder = folder.rpartition("/")[0]

    def _walk(self, folder: str, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """Objects below `folder` ("" or "a/b/") in order of key; folders that cannot hold any are not opened."""
        for entry in self._names(folder):
            path = folder + entry.name
            if path.endswith("/"):
                on_the_way = path.startswith(prefix) or prefix.startswith(path)
                if on_the_way and (path > after or after.startswith(path)):
                    yield from self._walk(path, prefix, after)
            elif path.startswith(prefix) and path > after:
                yield Listed(path, entry.size, entry.modified)

    def _names(self, folder: str) -> Sequence[Name]:
        """Entries in order of key: a folder sorts as `name/`, since `a-b` comes before `a/b`."""
        with _as_unavailable(self.root / folder):
            try:
                found = self._tree.names(folder)
            except _ABSENT:
                return []
        return sorted(entry for entry in found if _NAME.fullmatch(entry.name.removesuffix("/")))

    def _children(self, prefix: str) -> Iterator[str]:
        for entry in self._names(prefix) if _is_folder(prefix) else ():
            if not entry.name.endswith("/") or next(self._walk(prefix + entry.name), None):
                yield entry.name.removesuffix("/")

    def _check(self) -> None:
        with _as_unavailable(self.root):
            written = self._new_temporary()
            linked = written.with_suffix(".link")
            try:
                write_synced(written, BytesIO(b"check"))
                os.link(written, linked)
                if linked.read_bytes() != b"check":
                    raise Unavailable(f"{self.root} does not return what was written: check its file system")
            finally:
                written.unlink(missing_ok=True)
                linked.unlink(missing_ok=True)


def _is_folder(prefix: str) -> bool:
    """Whether keys can be below the prefix; no other prefix may reach the file system."""
    return all(_NAME.fullmatch(name) for name in prefix.removesuffix("/").split("/")) if prefix else True


async def _from_thread(pool: Pool, items: Iterator[T]) -> AsyncIterator[T]:
    """Iterate in a thread, some hundred items at a time, so that a listing neither blocks the loop nor is held in memory."""

    def take() -> list[T]:
        return list(islice(items, _LISTED_AT_ONCE))

    while batch := await pool.run(take):
        for item in batch:
            yield item


def _as_unavailable(path: Path) -> AbstractContextManager[None]:
    return as_unavailable(path, "point MILLSTREAM_BLOBS at a folder that works")
