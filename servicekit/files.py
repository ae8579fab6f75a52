"""Files: read because a setting names them, or written durably."""

import os
import shutil
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
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
