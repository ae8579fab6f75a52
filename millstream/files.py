"""Files: their digest, and a path that must stay inside its folder."""

import hashlib
from pathlib import Path, PurePosixPath

from millstream.errors import InvalidArgument


def file_digest(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def path_inside(folder: Path, name: str) -> Path:
    """`folder/name`. Raises InvalidArgument for a name that is absolute or would leave the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise InvalidArgument(f"the file name {name!r} would leave its folder")
    return folder / name
