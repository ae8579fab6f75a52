"""A file's digest, and protection against path traversal."""

import hashlib
from pathlib import Path, PurePosixPath

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
