"""What a writer must know of every entry of a ledger: the request_id, and the time. In memory, and stored in blocks.

A process that starts reads a block in place of each 256 entries. A block is written by whoever has read all of its entries.
"""

from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import LedgerBlock
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode, unpack

M = TypeVar("M", bound=Message)
BLOCK = 256
"""Entries of a block. Changing it makes stored blocks wrong: choose another folder then."""


@dataclass(frozen=True)
class Indexed(Generic[M]):
    """What the index has of an entry; `message` only in a ledger of small entries. None of it: the entry is damaged."""

    request_id: str = ""
    time_ns: int = 0
    message: M | None = None


class LedgerIndex(Generic[M]):
    """Of the entries 1 to `covered`. About 200 bytes an entry, and its message in a ledger of small entries."""

    def __init__(self, blobs: Blobs, prefix: str, small: type[M] | None) -> None:
        """`small`: the type of the messages, where the index is to have them."""
        self.blobs, self.folder, self.small = blobs, f"ledger-blocks/{prefix}", small
        self.messages: list[M | None] = []
        """In a ledger of small entries, entry n being at n - 1; None for one that is damaged."""
        self._request_ids: list[str] = []
        self._numbers: dict[str, int] = {}
        self._times_ns: list[int] = []

    @property
    def covered(self) -> int:
        """The number of the newest entry that it knows."""
        return len(self._times_ns)

    def number_of(self, request_id: str) -> int:
        """The entry of a request; 0: there is none."""
        return self._numbers.get(request_id, 0)

    def time_ns(self, number: int) -> int:
        """The time of a covered entry."""
        return self._times_ns[number - 1]

    def number_at(self, time_ns: int) -> int:
        """The newest entry of that time or before; 0: there is none."""
        return bisect_right(self._times_ns, time_ns)

    async def load(self, count: int) -> int:
        """Read the stored blocks of entries that are not covered, of a ledger with so many.

        Returns the number of the last entry to read before it may help to load again. Raises Unavailable.
        """
        while self.covered % BLOCK == 0 and self.covered + BLOCK <= count:
            key = self._key(self.covered // BLOCK + 1)
            try:
                block = self._read(await self.blobs.get(key), key)
            except (NotFound, DataLoss):
                break  # the entries are read, and the block is written again
            for entry in block:
                self._add(entry)
        return min((self.covered // BLOCK + 1) * BLOCK, count)

    async def add(self, entry: Indexed[M]) -> None:
        """Cover the next entry; the last of a block stores it."""
        self._add(entry)
        if self.covered % BLOCK == 0 and all(self._request_ids[-BLOCK:]):
            with suppress(MillstreamError):  # the next process to start reads the entries, and writes it
                await self.blobs.put(self._key(self.covered // BLOCK), self._newest_block().SerializeToString())

    def _add(self, entry: Indexed[M]) -> None:
        before = self._times_ns[-1] if self._times_ns else 0
        self._times_ns.append(max(before, entry.time_ns))
        self._request_ids.append(entry.request_id)
        if self.small:
            self.messages.append(entry.message)
        if entry.request_id:
            self._numbers[entry.request_id] = self.covered

    def _read(self, data: bytes, key: str) -> list[Indexed[M]]:
        found = []
        for stored in decode(LedgerBlock, data, key).entries:
            message = unpack(self.small, stored.message, key) if self.small else None
            found.append(Indexed(stored.request_id, stored.time.ToNanoseconds(), message))
        if len(found) != BLOCK:
            raise DataLoss(f"the stored block {key} has {len(found)} entries", key=key)
        return found

    def _newest_block(self) -> LedgerBlock:
        block = LedgerBlock()
        for number in range(self.covered - BLOCK, self.covered):
            stored = block.entries.add(number=number + 1, request_id=self._request_ids[number])
            stored.time.CopyFrom(timestamp_of_ns(self._times_ns[number]))
            if self.small and (message := self.messages[number]):
                stored.message.Pack(message)
        return block

    def _key(self, number: int) -> str:
        return f"{self.folder}/{number:010d}"
