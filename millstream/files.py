"""A file's digest, protection against path traversal, and small files that are read again when they change."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from millstream.errors import InvalidArgument


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_inside(folder: Path, name: str) -> Path:
    """`folder/name`. Raises InvalidArgument for a name that is absolute or would leave the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidArgument(f"the file name {name!r} would leave its folder")
    return folder / name


T = TypeVar("T")
log = logging.getLogger(__name__)
FRESH_SECONDS = 1.0
"""How long watched files are taken to be as they were."""


class WatchedFiles(Generic[T]):
    """What small files say together, read again when one changes, so that a rotation needs no restart.

    Changed files that cannot be read or parsed are logged, and what they said before stays.
    """

    def __init__(self, paths: Sequence[str], parse: Callable[..., T]) -> None:
        """Read them; `parse` gets the bytes of each. Raises OSError, and what `parse` raises."""
        self.paths, self.parse = paths, parse
        self._lock = threading.Lock()
        # Before the bytes are read: what changes meanwhile is found at the next look.
        self._versions = self._look()
        self._bytes = self._read()
        self._value = parse(*self._bytes)
        self._looked = time.monotonic()

    @property
    def value(self) -> T:
        """What they say now; at most FRESH_SECONDS old."""
        if time.monotonic() - self._looked >= FRESH_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._reread()
            finally:
                self._lock.release()
        return self._value

    def _reread(self) -> None:
        self._looked = time.monotonic()
        files = ", ".join(self.paths)
        try:
            if (versions := self._look()) != self._versions:
                found = self._read()
                self._versions = versions
                # Some agents write the same again and again.
                if found != self._bytes:
                    self._value, self._bytes = self.parse(*found), found
                    log.info("read again", extra={"file": files})
        except (OSError, ValueError) as error:
            log.error("a changed file cannot be used, the one before is", extra={"file": files, "error": str(error)})

    def _read(self) -> list[bytes]:
        return [Path(path).read_bytes() for path in self.paths]

    def _look(self) -> list[tuple[int, int, int]]:
        found = [os.stat(path) for path in self.paths]
        return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found]
