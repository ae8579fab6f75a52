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
from servicekit.files import as_unavailable, sync_folder, write_synced
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
        path = self._path(check_key(key))
        with _as_unavailable(path):
            return await self._calls.run(path.is_file)

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
        path = self._path(key)
        with _as_unavailable(path):
            try:
                return path.open("rb")
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
        target = self._path(key)
        with _as_unavailable(self.root):
            if exclusive and target.is_file():
                return False
            written = self._new_temporary()
            try:
                write_synced(written, source)
                return self._place(written, target, exclusive)
            finally:
                written.unlink(missing_ok=True)

    def _place(self, written: Path, target: Path, exclusive: bool) -> bool:
        for _ in range(_TRIES):
            try:
                self._make_folders(target.parent)
                if exclusive:
                    os.link(written, target)
                else:
                    os.replace(written, target)
            except (FileNotFoundError, NotADirectoryError):
                continue  # a delete() removed the empty folder between the two steps: retry
            except (FileExistsError, IsADirectoryError):
                if target.is_dir():
                    self._free_folder(target)
                elif exclusive and target.exists():
                    return written.stat().st_nlink > 1  # over NFS the reply to a link() that succeeded can be lost
            else:
                with suppress(FileNotFoundError):  # deleted already
                    sync_folder(target.parent)
                return True
        raise Unavailable(f"{target} could not be stored: something keeps removing its folder; find and stop it")

    def _free_folder(self, folder: Path) -> None:
        """Remove empty folders that a deleted or unfinished object left. Raises InvalidArgument if they hold objects."""
        if next(self._walk(f"{folder.relative_to(self.root)}/"), None):
            raise InvalidArgument(f"{folder.name!r} is the folder of other keys", field="key")
        for path, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):  # an object was put there, or another process removed it
                os.rmdir(path)

    def _make_folders(self, folder: Path) -> None:
        """Create and sync the folders that are missing from the root down."""
        if folder.is_dir():
            return
        if folder == self.root:
            folder.mkdir(parents=True, exist_ok=True)
            return
        self._make_folders(folder.parent)
        try:
            folder.mkdir()
        except (FileExistsError, NotADirectoryError):
            if folder.is_file() or folder.parent.is_file():
                raise InvalidArgument(f"a key cannot be below the object {folder.name!r}", field="key") from None
        sync_folder(folder.parent)

    def _new_temporary(self) -> Path:
        self._temporary.mkdir(parents=True, exist_ok=True)
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
        path = self._path(key)
        with _as_unavailable(path):
            try:
                path.unlink()
            except _ABSENT:
                return
            except PermissionError:
                if path.is_dir():  # POSIX: unlink() of a folder may fail with EPERM
                    return
                raise
            folder = path.parent
            with suppress(FileNotFoundError):
                sync_folder(folder)
            with suppress(OSError):
                while folder != self.root:
                    folder.rmdir()
                    folder = folder.parent

    def _walk(self, folder: str, prefix: str = "", after: str = "") -> Iterator[Listed]:
        """Objects below `folder` ("" or "a/b/") in order of key; folders that cannot hold any are not opened."""
        for name in self._names(folder):
            path = folder + name
            if name.endswith("/"):
                on_the_way = path.startswith(prefix) or prefix.startswith(path)
                if on_the_way and (path > after or after.startswith(path)):
                    yield from self._walk(path, prefix, after)
            elif path.startswith(prefix) and path > after:
                with suppress(FileNotFoundError):
                    found = os.stat(self.root / path)
                    yield Listed(path, found.st_size, found.st_mtime)

    def _names(self, folder: str) -> Sequence[str]:
        """Names in order of key: a folder sorts as `name/`, since `a-b` comes before `a/b`."""
        with _as_unavailable(self.root / folder):
            try:
                with os.scandir(self.root / folder) as entries:
                    found = [entry.name + ("/" if entry.is_dir() else "") for entry in entries]
            except _ABSENT:
                return []
        return sorted(name for name in found if _NAME.fullmatch(name.removesuffix("/")))

    def _children(self, prefix: str) -> Iterator[str]:
        for name in self._names(prefix) if _is_folder(prefix) else ():
            if not name.endswith("/") or next(self._walk(prefix + name), None):
                yield name.removesuffix("/")

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
