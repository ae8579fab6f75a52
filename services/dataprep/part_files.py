"""Parts on this replica's disk, for reading rows: downloaded whole and verified once, the last used are kept."""

import asyncio
from collections import OrderedDict
from pathlib import Path

from millstream.dataset.v1.dataset_pb2 import DatasetPart
from servicekit.blobs.parts import download_part
from servicekit.blobs.port import Blobs
from servicekit.pools import Pool

KEPT_PARTS = 8
KEPT_BYTES = 2 << 30
"""Most bytes of the kept parts; a part that alone has more is kept alone."""
DOWNLOADS = 2
"""Parts that are downloaded at once."""


class PartFiles:
    """Files by digest in a folder that belongs to this object alone."""

    def __init__(self, blobs: Blobs, folder: Path, pool: Pool) -> None:
        self._blobs, self._folder, self._pool = blobs, folder, pool
        self._kept: OrderedDict[str, int] = OrderedDict()
        """Digest → bytes, the last used at the end."""
        self._fetching: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(DOWNLOADS)

    async def fetch(self, part: DatasetPart) -> Path:
        """The part's file. Raises NotFound, or InvalidArgument when its bytes do not have its digest.

        A download goes on when its caller has gone, so that the next call for a large part finds it.
        """
        path = self._folder / part.digest
        # Cleaners of temporary folders remove old files.
        if part.digest not in self._kept or not path.is_file():
            if part.digest not in self._fetching:
                task = asyncio.create_task(self._download(part, path))
                self._fetching[part.digest] = task
                task.add_done_callback(lambda done: self._fetched(part.digest, done))
            await asyncio.shield(self._fetching[part.digest])
        self._kept.move_to_end(part.digest)
        return path

    def drop(self, digest: str) -> None:
        """Remove one file, because it cannot be read."""
        self._kept.pop(digest, None)
        (self._folder / digest).unlink(missing_ok=True)

    async def _download(self, part: DatasetPart, path: Path) -> None:
        async with self._slots:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            await download_part(self._blobs, part, path, self._pool)
        self._kept[part.digest] = part.size_bytes
        while len(self._kept) > 1 and (len(self._kept) > KEPT_PARTS or sum(self._kept.values()) > KEPT_BYTES):
            # Who reads it now has it open, and goes on.
            self.drop(next(digest for digest in self._kept if digest != part.digest))

    def _fetched(self, digest: str, task: asyncio.Task[None]) -> None:
        self._fetching.pop(digest)
        if not task.cancelled():
            task.exception()  # retrieved also where every caller has gone
