"""What a writer must know of every entry of a ledger: the request_id, and the time. In memory, and stored in blocks.

A process that starts reads a block in place of each 256 entries. A block is written by whoever has read all of its entries.
"""

from bisect import bisect_right
from contextlib import suppress

from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.operations.v1.stored_pb2 import LedgerBlock
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode

BLOCK = 256
"""Entries of a block. Changing it makes stored blocks wrong: choose another folder then."""


class LedgerIndex:
    """Of the entries 1 to `covered`. About 200 bytes an entry."""

    def __init__(self, blobs: Blobs, prefix: str) -> None:
        self.blobs, self.folder = blobs, f"ledger-blocks/{prefix}"
        self._numbers: dict[str, int] = {}
        self._times_ns: list[int] = []

    @property
    def covered(self) -> int:
        """The number of the newest entry that it knows."""
        return len(self._times_ns)

    def number_of(self, request_id: str) -> int:
        """The entry of a request; 0: there is none."""
        return self._numbers.get(request_id, 0)

    def number_at(self, time_ns: int) -> int:
        """The newest entry of that time or before; 0: there is none."""
        return bisect_right(self._times_ns, time_ns)

    async def load(self, count: int) -> None:
        """Read the stored blocks of entries that are not covered, of a ledger with so many. Raises Unavailable."""
        while self.covered % BLOCK == 0 and self.covered + BLOCK <= count:
            key = self._key(self.covered // BLOCK + 1)
            try:
                block = decode(LedgerBlock, await self.blobs.get(key), key)
            except (NotFound, DataLoss):
                return  # the entries are read, and the block is written again
            for request_id, time_ns in zip(block.request_ids, block.times_ns, strict=True):
                self._add(request_id, time_ns)

    async def add(self, request_id: str, time_ns: int) -> None:
        """Cover the next entry; the last of a block stores it."""
        self._add(request_id, time_ns)
        if self.covered % BLOCK == 0:
            block = LedgerBlock(request_ids=list(self._numbers)[-BLOCK:], times_ns=self._times_ns[-BLOCK:])
            with suppress(MillstreamError):  # the next process to start reads the entries, and writes it
                await self.blobs.put(self._key(self.covered // BLOCK), block.SerializeToString())

    def _add(self, request_id: str, time_ns: int) -> None:
        self._times_ns.append(time_ns)
        self._numbers[request_id] = self.covered

    def _key(self, number: int) -> str:
        return f"{self.folder}/{number:010d}"
