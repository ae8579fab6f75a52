"""Artifacts on disk, downloaded once and kept for a while."""

import asyncio
import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

from servicekit import metrics
from servicekit.blobs import artifacts
from servicekit.blobs.port import Blobs
from servicekit.files import sync_tree
from servicekit.ids import new_id

log = logging.getLogger(__name__)
FETCHING, REMOVED = ".fetching-", ".removed-"
"""How the names of what is on its way in, and out, begin."""
ABANDONED_SECONDS = 3600.0
"""A download that has not grown for this time is abandoned: its process died."""


class ArtifactCache:
    """`{folder}/{digest}`, verified by each fetch. Its modification time is when it was last used.

    Processes may share the folder: an artifact comes and goes by one rename, so none sees half of one, and who reads a copy
    goes on reading the same bytes. What is on its way in or out has a name that starts with a dot.
    """

    def __init__(self, blobs: Blobs, folder: Path) -> None:
        self.blobs, self.folder = blobs, folder

    async def fetch(self, digest: str) -> Path:
        """The artifact's folder, used now, whose files were just compared with the digest.

        A copy that does not have it is removed and downloaded again. Raises NotFound, OSError, InvalidArgument (no digest,
        or damaged bytes in the store), or DataLoss (a damaged manifest there).
        """
        prefix, target = artifacts.prefix_of(digest), self.folder / digest
        while True:
            if not target.is_dir():
                await self._download(prefix, digest, target)
            elif not await self.verify(digest):
                continue
            # Another process may remove it at this moment; it is downloaded again then.
            with suppress(FileNotFoundError):
                os.utime(target)
                return target

    async def verify(self, digest: str) -> bool:
        """Whether the copy on disk is what its digest names. Another is removed, so that fetch() downloads it again.

        Raises OSError when the copy cannot be opened at all.
        """
        return await asyncio.to_thread(self._verify, digest)

    def keep_newest(self, count: int) -> list[str]:
        """Remove all but those used last, and abandoned downloads. Blocking; returns the removed digests."""
        self._remove_abandoned()
        used = sorted(self._artifacts(), key=lambda found: found[1], reverse=True)
        return self._remove_all(digest for digest, _ in used[count:])

    def remove_unused(self, seconds: float, in_use: Collection[str]) -> list[str]:
        """Remove what no process has used for this time, and abandoned downloads. Blocking; returns the removed digests.

        `in_use` are digests that this process uses now: they count as used, so another process keeps them, too.
        """
        self._remove_abandoned()
        for digest in in_use:
            with suppress(FileNotFoundError):
                os.utime(self.folder / digest)
        now = time.time()
        return self._remove_all(
            digest for digest, used in self._artifacts() if digest not in in_use and now - used > seconds
        )

    def remove(self, digest: str) -> bool:
        """Remove one at once, for all processes. Blocking; False: it was not there."""
        removed = self.folder / f"{REMOVED}{new_id()}"
        try:
            (self.folder / digest).rename(removed)
        except FileNotFoundError:
            return False
        shutil.rmtree(removed, ignore_errors=True)
        return True

    def _verify(self, digest: str) -> bool:
        copy = self.folder / digest
        try:
            opened = os.open(copy, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            problem = _problem(copy, digest)
            # By now another may have replaced the copy that was read. While it is open, its inode is not used again.
            if problem and _is_at(copy, opened) and self.remove(digest):
                metrics.ARTIFACTS_DAMAGED.inc()
                log.warning("cached artifact damaged and removed", extra={"artifact": digest, "problem": problem})
        finally:
            os.close(opened)
        return not problem

    async def _download(self, prefix: str, digest: str, target: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(dir=self.folder, prefix=FETCHING))
        try:
            await artifacts.download(self.blobs, prefix, fresh, digest)
            # A power cut after the rename must not leave a folder that is there, and trusted, with empty files in it.
            await asyncio.to_thread(sync_tree, fresh)
            try:
                fresh.rename(target)
            except OSError as error:
                # Another process was faster.
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                    raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _remove_all(self, digests: Iterator[str]) -> list[str]:
        return [digest for digest in list(digests) if self.remove(digest)]

    def _artifacts(self) -> Iterator[tuple[str, float]]:
        """Digest and time of last use, in seconds since the epoch."""
        for path in self._paths():
            with suppress(FileNotFoundError):
                if not path.name.startswith("."):
                    yield path.name, path.stat().st_mtime

    def _remove_abandoned(self) -> None:
        for path in self._paths():
            if path.name.startswith((FETCHING, REMOVED)):
                with suppress(FileNotFoundError):
                    grown = max(file.stat().st_mtime for file in (path, *path.rglob("*")))
                    if time.time() - grown > ABANDONED_SECONDS:
                        shutil.rmtree(path, ignore_errors=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


def _problem(copy: Path, digest: str) -> str:
    """Why the files of the copy are not those that the digest names; "": they are."""
    try:
        found = artifacts.describe(copy).digest
    except OSError as error:
        return f"it cannot be read: {error}"
    return "" if found == digest else f"its files have the digest {found}"


def _is_at(path: Path, opened: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(opened))
    return False
