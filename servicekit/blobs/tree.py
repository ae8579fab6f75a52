"""Files below a folder, reached name by name from a descriptor of it, so that no symbolic link below it is followed.

A link in a shared folder may name any file that this process can read. Without links there is none to follow (openat(2) with
O_NOFOLLOW). Only regular files count: a link or a pipe is as if it were not there.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from millstream.errors import InvalidArgument

_ROOT = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER = _ROOT | os.O_NOFOLLOW
# Without O_NONBLOCK a pipe of that name would wait for its writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Name(NamedTuple):
    """An entry of a folder: the name of a folder ends with `/`; `size` (bytes) and `modified` (seconds) are of a file."""

    name: str
    size: int = 0
    modified: float = 0.0


class Tree:
    """The files and folders below `root`, which may itself be a link. Paths are relative, with `/` between names."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def folder(self, path: str, *, make: bool = False) -> Iterator[int]:
        """A descriptor of a folder; "" is the root. With `make`, those that are missing are made and synced.

        Raises FileNotFoundError, NotADirectoryError where a name is no folder, and InvalidArgument if `make` meets a file.
        """
        try:
            opened = os.open(self.root, _ROOT)
        except FileNotFoundError:
            if not make:
                raise
            self.root.mkdir(parents=True, exist_ok=True)
            opened = os.open(self.root, _ROOT)
        try:
            for name in filter(None, path.split("/")):
                below = _make(opened, name) if make else os.open(name, _FOLDER, dir_fd=opened)
                os.close(opened)
                opened = below
            yield opened
        finally:
            os.close(opened)

    def open(self, path: str) -> BinaryIO:
        """A file to read. Raises FileNotFoundError, NotADirectoryError, IsADirectoryError."""
        folder, _, name = path.rpartition("/")
        with self.folder(folder) as opened:
            try:
                file = os.open(name, _FILE, dir_fd=opened)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENXIO):  # a link, or a socket
                    raise FileNotFoundError(errno.ENOENT, "no regular file", path) from None
                raise
        kind = os.fstat(file).st_mode
        if not stat.S_ISREG(kind):
            os.close(file)
            raise (IsADirectoryError if stat.S_ISDIR(kind) else FileNotFoundError)(
                errno.ENOENT, "no regular file", path
            )
        return os.fdopen(file, "rb")

    def is_file(self, path: str) -> bool:
        """Whether it is a regular file."""
        folder, _, name = path.rpartition("/")
        try:
            with self.folder(folder) as opened:
                return stat.S_ISREG(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_folder(self, path: str) -> bool:
        """Whether it is a folder."""
        try:
            with self.folder(path):
                return True
        except (FileNotFoundError, NotADirectoryError):
            return False

    def names(self, path: str) -> list[Name]:
        """The folders and regular files in a folder, in no order. Raises FileNotFoundError, NotADirectoryError."""
        found = []
        with self.folder(path) as opened, os.scandir(opened) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    if entry.is_dir(follow_symlinks=False):
                        found.append(Name(f"{entry.name}/"))
                    elif entry.is_file(follow_symlinks=False):
                        now = entry.stat(follow_symlinks=False)
                        found.append(Name(entry.name, now.st_size, now.st_mtime))
        return found

    def remove_empty(self, path: str) -> None:
        """Remove the folder and those in it, as far as they are empty."""
        with suppress(FileNotFoundError, NotADirectoryError):
            for entry in self.names(path):
                if entry.name.endswith("/"):
                    self.remove_empty(f"{path}/{entry.name.removesuffix('/')}")
        self.remove_folder(path)

    def remove_folder(self, path: str) -> bool:
        """Remove a folder if it is empty; whether it was."""
        folder, _, name = path.rpartition("/")
        try:
            with self.folder(folder) as opened:
                os.rmdir(name, dir_fd=opened)
        except OSError:  # an object was put there, or another process removed it
            return False
        return True


def _make(opened: int, name: str) -> int:
    """A descriptor of the folder, which is made if it is missing. Raises FileNotFoundError if it is removed meanwhile."""
    with suppress(FileNotFoundError):
        return _enter(opened, name)
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=opened)
        os.fsync(opened)
    return _enter(opened, name)


def _enter(opened: int, name: str) -> int:
    try:
        return os.open(name, _FOLDER, dir_fd=opened)
    except NotADirectoryError:
        kind = os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode
        what = "the object" if stat.S_ISREG(kind) else "what is no folder,"
        raise InvalidArgument(f"a key cannot be below {what} {name!r}", field="key") from None
