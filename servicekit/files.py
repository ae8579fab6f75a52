"""Files: read because a setting names them, written durably, or kept only while a process lives."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 20


def read_file(path: str) -> bytes:
    """The bytes of a file that a setting names. Ends the process when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {path}: {error.strerror}") from None


def write_synced(path: Path, source: BinaryIO) -> None:
    """Write a new file and sync it. Raises FileExistsError, OSError."""
    with path.open("xb") as file:
        shutil.copyfileobj(source, file, BLOCK)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make the folder's entries durable. Raises OSError."""
    _sync(folder, os.O_DIRECTORY)


def sync_tree(folder: Path) -> None:
    """Make all files and folders in the folder durable, then the folder itself. Raises OSError."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path, flags: int = 0) -> None:
    opened = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def scratch_folder(name: str, parent: Path | None = None) -> Iterator[Path]:
    """A folder in `parent` (by default TMPDIR) for this process alone, removed after the block. Raises OSError.

    A process holds a lock (flock) on its folder while it lives, so each start removes those of processes that were killed.
    """
    parent = parent or Path(tempfile.gettempdir())
    for folder in parent.glob(f"{name}-*"):
        _remove_abandoned(folder)
    while True:
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
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
