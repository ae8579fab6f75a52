"""Files: written durably, or kept only while a process lives."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from millstream.errors import Unavailable

BLOCK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NO_LINKS = {errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def write_synced(path: Path, source: BinaryIO) -> None:
    """Write a new file and sync it. Raises FileExistsError, OSError."""
    with path.open("xb") as file:
        shutil.copyfileobj(source, file, BLOCK)
        file.flush()
        os.fsync(file.fileno())


def sync_tree(folder: Path) -> None:
    """Make all files and folders in the folder durable, then the folder itself. Raises OSError."""
    for path in (*folder.rglob("*"), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def unavailable(error: OSError, path: Path, otherwise: str) -> Unavailable:
    """The error as Unavailable that names the path and what to do; `otherwise`: for an error that does not say it."""
    if error.errno in _FULL:
        advice = "free space (or raise the quota) on its file system"
    elif error.errno in _FORBIDDEN:
        advice = f"let user {os.geteuid()} write there (permissions, a read-only mount)"
    elif error.errno in _NO_LINKS:
        advice = "use a file system that supports hard links"
    else:
        advice = otherwise
    return Unavailable(f"{path}: {error.strerror or error}; {advice}", path=str(path))


@contextmanager
def as_unavailable(path: Path, otherwise: str) -> Iterator[None]:
    """Turn an OSError into unavailable()."""
    try:
        yield
    except OSError as error:
        raise unavailable(error, path, otherwise) from error


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent` for this process alone, removed after the block. Raises OSError.

    A process holds a lock (flock) on its folder while it lives, so each start removes those of processes that were killed,
    and processes may share the parent.
    """
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in parent.glob("process-*"):
        _remove_abandoned(folder)
    while True:
        made = Path(tempfile.mkdtemp(prefix="process-", dir=parent))
        lock = _lock(made, fcntl.LOCK_EX)
        # Another process, at its start, may have removed the folder before it was locked.
        if lock is not None and made.is_dir():
            break
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        os.close(lock)


def _remove_abandoned(folder: Path) -> None:
    if (lock := _lock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)) is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _lock(folder: Path, operation: int) -> int | None:
    """The descriptor that holds the lock; None: it is another process's or user's folder, or gone."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(opened, operation)
    except OSError:
        os.close(opened)
        return None
    return opened
