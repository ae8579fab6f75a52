"""Files that this replica receives: written and hashed chunk by chunk, and kept on disk until their import has ended.

An import continues with the file that its replica kept. Another replica, or this one after a restart, downloads it from the
store.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest
from millstream.errors import DeadlineExceeded, InvalidArgument, Overloaded
from servicekit.ids import new_id
from servicekit.work.keys import Key
from services.dataprep import metrics

KEPT_FILES = 100
"""Most files that wait for their import, so that many small ones do not use up inodes."""
KEPT_BYTES = 2 << 30
"""Most bytes of them: two of the largest uploads that the default limit allows. A longer queue waits in the store only."""
RETRY_SECONDS = 5.0
"""When a caller may try again whose upload was one too many."""


class Received(NamedTuple):
    """A file on this replica's disk; its digest is sha256 in hex."""

    path: Path
    digest: str
    size_bytes: int


class Uploads:
    """Receives files into a folder, which belongs to this object alone, and has room there for an import's parts."""

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        *,
        kept_bytes: int = KEPT_BYTES,
        at_once: int = 64,
        pause_seconds: float = 60.0,
    ) -> None:
        """`limit_bytes` bounds one file, `kept_bytes` all files that wait for their import, `at_once` the calls that send
        one, and `pause_seconds` the time between two messages of a call."""
        self.folder, self.limit_bytes, self.kept_bytes = folder, limit_bytes, kept_bytes
        self.at_once, self.pause_seconds = at_once, pause_seconds
        self.admitted = 0
        """Calls that are sending a file now."""
        self._kept: dict[Key, Received] = {}

    @contextmanager
    def admit(self) -> Iterator[None]:
        """The time of one call that sends a file. Raises Overloaded when too many send one already."""
        if self.admitted >= self.at_once:
            raise Overloaded(
                f"{self.at_once} files are being uploaded already: try again in a moment, or raise "
                "MILLSTREAM_UPLOADS_AT_ONCE",
                retry_after=RETRY_SECONDS,
            )
        self.admitted += 1
        try:
            yield
        finally:
            self.admitted -= 1

    async def paced(self, requests: AsyncIterator[ImportDatasetRequest]) -> AsyncIterator[ImportDatasetRequest]:
        """The call's messages. Raises DeadlineExceeded when none comes for `pause_seconds`, so that each upload ends."""
        messages = aiter(requests)
        while True:
            try:
                async with asyncio.timeout(self.pause_seconds):
                    request = await anext(messages, None)
            except TimeoutError:
                raise DeadlineExceeded(
                    f"the upload paused for {self.pause_seconds:g} s: check the network, then import the file again"
                ) from None
            if request is None:
                return
            yield request

    @asynccontextmanager
    async def receive(self, requests: AsyncIterator[ImportDatasetRequest]) -> AsyncIterator[Received]:
        """Write the chunks to a file that is removed after the block, unless keep() took it. Raises InvalidArgument."""
        path = self._folder() / new_id()
        try:
            yield await self._write(requests, path)
        finally:
            path.unlink(missing_ok=True)

    def keep(self, key: Key, file: Received) -> None:
        """Keep the file for this import, unless too much is kept already: the import then downloads it."""
        waiting = sum(kept.size_bytes for kept in self._kept.values())
        if key in self._kept or len(self._kept) >= KEPT_FILES or waiting + file.size_bytes > self.kept_bytes:
            return
        kept = file.path.with_suffix(".kept")
        file.path.rename(kept)
        self._kept[key] = file._replace(path=kept)

    def path(self, key: Key) -> Path | None:
        """The file kept for this import, None when there is none and it must be downloaded."""
        kept = self._kept.get(key)
        # Cleaners of /tmp remove old files.
        return kept.path if kept and kept.path.is_file() else None

    def drop(self, key: Key) -> None:
        """Remove the file kept for this import, if there is one."""
        if kept := self._kept.pop(key, None):
            kept.path.unlink(missing_ok=True)

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """A folder for the parts of one import, removed after the block."""
        with TemporaryDirectory(dir=self._folder(), ignore_cleanup_errors=True) as folder:
            yield Path(folder)

    def _folder(self) -> Path:
        """The folder, made again where a cleaner of /tmp has removed it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self.folder

    async def _write(self, requests: AsyncIterator[ImportDatasetRequest], path: Path) -> Received:
        digest, size = hashlib.sha256(), 0
        with path.open("wb") as file:
            async for request in requests:
                if request.WhichOneof("part") != "chunk":
                    raise InvalidArgument("only the first message is a header: send chunks after it", field="header")
                if not request.chunk:
                    raise InvalidArgument(
                        "a chunk is empty: send bytes, and end the stream after the last", field="chunk"
                    )
                size += len(request.chunk)
                if size > self.limit_bytes:
                    raise InvalidArgument(
                        f"the file is larger than {self.limit_bytes:,} bytes: compress it with gzip, import less, "
                        "or raise MILLSTREAM_UPLOAD_LIMIT_BYTES",
                        field="chunk",
                    )
                digest.update(request.chunk)
                file.write(request.chunk)
        metrics.UPLOADED.inc(size)
        return Received(path, digest.hexdigest(), size)
