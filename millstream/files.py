"""A file's digest, protection against path traversal, and small files that are read again when they change."""

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
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
"""How long a watched file is taken to be as it was."""


class WatchedFile(Generic[T]):
    """What a small file says, read again when the file changes, so that a rotation needs no restart.

    A changed file that cannot be read or parsed is logged, and what it said before stays.
    """

    def __init__(self, path: str, parse: Callable[[bytes], T]) -> None:
        """Read it. Raises OSError, and what `parse` raises."""
        self.path, self.parse = path, parse
        self._lock = threading.Lock()
        self._version = self._look()
        self._value = parse(Path(path).read_bytes())
        self._looked = time.monotonic()

    @property
    def value(self) -> T:
        """What it says now; at most FRESH_SECONDS old."""
        if time.monotonic() - self._looked >= FRESH_SECONDS and self._lock.acquire(blocking=False):
            try:
                self._reread()
            finally:
                self._lock.release()
        return self._value

    def _reread(self) -> None:
        self._looked = time.monotonic()
        try:
            if (version := self._look()) != self._version:
                self._value = self.parse(Path(self.path).read_bytes())
                self._version = version
                log.info("read again", extra={"file": self.path})
        except (OSError, ValueError) as error:
            log.error(
                "a changed file cannot be used, the one before is", extra={"file": self.path, "error": str(error)}
            )

    def _look(self) -> tuple[int, int, int]:
        found = os.stat(self.path)
        return found.st_ino, found.st_size, found.st_mtime_ns
