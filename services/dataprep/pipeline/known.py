"""The rows that an import has seen, in a file: memory does not grow with them, however many they are.

A hash table with open addressing: SLOT_BYTES a slot, at most MOST_FULL of the slots taken, so a row costs 36 to 72 bytes of
disk, and half as much again while the table doubles. The kernel keeps in memory what there is room for.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

KEY_BYTES, LABEL_BYTES = 16, 8
SLOT_BYTES = KEY_BYTES + LABEL_BYTES
FIRST_SLOTS = 1 << 12
MOST_FULL = 2 / 3
_EMPTY = bytes(KEY_BYTES)


class KnownRows:
    """Row keys, each with a digest of its row's label. A context manager; its file has no name and goes with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.rows = folder, 0

    def __enter__(self) -> Self:
        self._slots, self._table = FIRST_SLOTS, self._allocate(FIRST_SLOTS)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._table.close()

    @property
    def size_bytes(self) -> int:
        """Bytes of the table on disk."""
        return len(self._table)

    def add(self, key: bytes, label: bytes) -> bytes | None:
        """Add a row, unless its key is known: then return the label that the key has. Raises OSError for a full disk."""
        start, found = self._find(key[:KEY_BYTES])
        if found is not None:
            return found
        self._table[start : start + SLOT_BYTES] = key[:KEY_BYTES] + label[:LABEL_BYTES]
        self.rows += 1
        if self.rows > MOST_FULL * self._slots:
            self._double()
        return None

    def label(self, key: bytes) -> bytes | None:
        """The label of a row; None: its key is not known."""
        return self._find(key[:KEY_BYTES])[1]

    def _find(self, key: bytes) -> tuple[int, bytes | None]:
        """Where the key is in the table, with its label; else the free slot where it belongs, and None."""
        slot = int.from_bytes(key[:8], "little") % self._slots
        while True:
            start = slot * SLOT_BYTES
            entry = self._table[start : start + SLOT_BYTES]
            if entry.startswith(key):
                return start, entry[KEY_BYTES:]
            if entry.startswith(_EMPTY):
                return start, None
            slot = (slot + 1) % self._slots

    def _double(self) -> None:
        old, new = self._table, self._allocate(2 * self._slots)
        self._slots, self._table = 2 * self._slots, new
        for entry in _taken(old):
            start, _ = self._find(entry[:KEY_BYTES])
            self._table[start : start + SLOT_BYTES] = entry
        old.close()

    def _allocate(self, slots: int) -> mmap.mmap:
        with tempfile.TemporaryFile(dir=self.folder) as file:
            # Without the space on the disk a later write to the memory would kill the process.
            os.posix_fallocate(file.fileno(), 0, slots * SLOT_BYTES)
            return mmap.mmap(file.fileno(), slots * SLOT_BYTES)


def _taken(table: mmap.mmap) -> Iterator[bytes]:
    for start in range(0, len(table), SLOT_BYTES):
        if table[start : start + KEY_BYTES] != _EMPTY:
            yield table[start : start + SLOT_BYTES]
