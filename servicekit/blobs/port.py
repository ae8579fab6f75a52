"""The object store port: immutable objects by key, and the one guarantee that facts rest on, put-if-absent.

Three adapters pass one contract suite (tests/suites/blobs.py): memory, directory and s3. servicekit/runtime/backends.py
opens them by address. A key is `segment/segment/…`: each segment of letters, digits, `.`, `_`, `=`, `-` or `~`, not
starting with a dot, at most 200 long; 900 in all. A key is never the folder of another key.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from millstream.errors import InvalidArgument

CHUNK = 1 << 20
CALLS, TRANSFERS = 24, 8
"""Threads of an adapter for its short calls, and for upload, download and read, which a large object or a slow disk holds
for minutes: they must not keep a fact or a health check waiting."""
SEGMENT = r"(?!\.)[A-Za-z0-9._=~-]{1,200}"
_KEY = re.compile(f"{SEGMENT}(/{SEGMENT})*")


@dataclass(frozen=True)
class Listed:
    """One object in a listing; `modified` is in seconds of the store's own clock."""

    key: str
    size: int
    modified: float


class Blobs(Protocol):
    """Objects by key. Every method may raise Unavailable; a put that raises may still have happened."""

    async def get(self, key: str) -> bytes:
        """The object's bytes. Raises NotFound."""
        ...

    async def put(self, key: str, data: bytes) -> None:
        """Store or replace, atomically and durably."""
        ...

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store unless the key is taken; of all callers in all processes exactly one gets True."""
        ...

    async def delete(self, key: str) -> None:
        """Remove the object; an absent key is no error."""
        ...

    async def exists(self, key: str) -> bool:
        """Whether get() would find the object now."""
        ...

    def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        """Objects whose key starts with the prefix and is greater than `after`, in order of key (code points).

        A listed object may be absent when read: it was deleted, or its writer died during the put and the store dropped it.
        """
        ...

    def children(self, prefix: str) -> AsyncIterator[str]:
        """The distinct segments that follow `prefix` (which ends with `/`), in order of key: objects and folders alike."""
        ...

    async def upload(self, key: str, path: Path) -> None:
        """put() from a file of any size, in bounded memory. Raises FileNotFoundError for a missing file."""
        ...

    async def download(self, key: str, path: Path) -> None:
        """Write the object to a file that appears whole or not at all, not yet synced to disk. Raises NotFound."""
        ...

    def read(self, key: str) -> AsyncIterator[bytes]:
        """The object in chunks of at most 1 MiB, in bounded memory. Raises NotFound."""
        ...

    async def check(self) -> None:
        """Raise Unavailable, with what to do, unless the store can be read and written now."""
        ...


def check_key(key: str) -> str:
    """Return the key. Raises InvalidArgument for one that could leave its prefix or that some store could misread."""
    if len(key) > 900 or not _KEY.fullmatch(key):
        raise InvalidArgument(f"{key!r} is not a key: use segments of A-Z a-z 0-9 . _ = ~ - joined by /", field="key")
    return key


def check_folder(prefix: str) -> str:
    """Return a prefix that children() can take: empty, or ending with `/`. Raises InvalidArgument."""
    if prefix and not prefix.endswith("/"):
        raise InvalidArgument(f"{prefix!r} is no folder of keys: end it with /", field="prefix")
    return prefix
