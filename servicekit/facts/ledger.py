"""The only way to change state: an append-only ledger of numbered, immutable entries under one prefix.

The newest entry is the state, all entries are the history. A writer that knows entries 1..n puts entry n+1 if absent; of
concurrent writers one succeeds, and the others read on and retry. No call reads more entries than it returns.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from cachetools import LRUCache
from google.protobuf.message import Message

from millstream.errors import Conflict, DataLoss, InvalidArgument, NotFound
from millstream.operations.v1.stored_pb2 import LedgerEntry
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode, unpack
from servicekit.concurrency import in_order
from servicekit.facts.ledger_index import Indexed, LedgerIndex

M = TypeVar("M", bound=Message)
CACHED = 256
"""Entries that a ledger keeps by default, unless it shares a cache with others."""
EntryCache = MutableMapping[str, "Entry[Any]"]
"""Entries by key, of any number of ledgers; one that is bounded, such as an LRUCache."""


class Put(Protocol):
    """put_if_absent(): the store's own, or an Outbox's, which announces the entry."""

    async def __call__(self, key: str, data: bytes, /) -> bool:
        """True: this call stored the object. Raises Unavailable."""
        ...


@dataclass(frozen=True)
class Entry(Generic[M]):
    """One entry. `time_ns` is nanoseconds since 1970 and grows from entry to entry; `actor` is the caller's name."""

    number: int
    request_id: str
    time_ns: int
    actor: str
    message: M


@dataclass(frozen=True)
class DamagedEntry:
    """Stands for an entry whose object cannot be decoded; `problem` names its key and says what to do."""

    number: int
    problem: str
    key: str


def read_entry(data: bytes, kind: type[M], key: str) -> Entry[M]:
    """Decode an entry's object. Raises DataLoss when it is damaged, or holds another message type."""
    stored = decode(LedgerEntry, data, key)
    message = unpack(kind, stored.message, key)
    return Entry(stored.number, stored.request_id, stored.time.ToNanoseconds(), stored.actor, message)


def intact(entry: Entry[M] | DamagedEntry) -> Entry[M]:
    """The entry itself. Raises DataLoss for a damaged one."""
    if isinstance(entry, DamagedEntry):
        raise DataLoss(entry.problem, key=entry.key)
    return entry


class Ledger(Generic[M]):
    """Entries `{prefix}/{n:010d}`. They never change and are never deleted, so what was read once may be cached.

    A damaged one is read again each time.
    """

    def __init__(
        self,
        blobs: Blobs,
        prefix: str,
        kind: type[M],
        put: Put | None = None,
        cache: EntryCache | None = None,
        *,
        small: bool = False,
    ) -> None:
        """`small`: the index has the messages too, and no entry says what other objects do not, so a damaged one keeps
        nothing waiting: it may be appended again."""
        self.blobs, self.prefix, self.kind, self.small = blobs, prefix, kind, small
        self._put: Put = put or blobs.put_if_absent
        self._cache: EntryCache = LRUCache(CACHED) if cache is None else cache
        self._count = 0
        """Entries that are known to exist."""
        self._index = LedgerIndex(blobs, prefix, kind if small else None)
        self._extending = asyncio.Lock()

    def key(self, number: int) -> str:
        """The object's key of an entry."""
        return f"{self.prefix}/{number:010d}"

    async def count(self) -> int:
        """How many entries there are, which is the number of the newest. Raises Unavailable."""
        known = self._count
        while await self._exists(known + 1):
            low, step = known + 1, 2
            while await self._exists(low + step):
                low, step = low + step, 2 * step
            absent = low + step
            while absent - low > 1:
                middle = (low + absent) // 2
                low, absent = (middle, absent) if await self._exists(middle) else (low, middle)
            known = low
        self._count = max(self._count, known)
        return self._count

    async def has(self, number: int) -> bool:
        """Whether there is an entry of this number. Raises Unavailable."""
        return number > 0 and (number <= self._count or number <= await self.count())

    async def entry(self, number: int) -> Entry[M] | DamagedEntry:
        """One entry, or a stand-in for one that is damaged, or gone. Raises NotFound for one that never was, Unavailable."""
        key = self.key(number)
        if found := self._cache.get(key):
            return found
        try:
            self._cache[key] = read = read_entry(await self.blobs.get(key), self.kind, key)
        except NotFound:
            if number > self._count:
                raise
            text = f"the stored object {key} is gone: restore it from a backup, then all goes on by itself"
            return DamagedEntry(number, text, key)
        except DataLoss as error:
            return DamagedEntry(number, error.text, key)
        return read

    async def listed(self, first: int, last: int) -> list[Entry[M] | DamagedEntry]:
        """The entries of these numbers, both included. Raises NotFound, Unavailable."""
        return [entry async for entry in in_order(self.entry, range(first, last + 1))]

    async def entries(self, last: int = 0) -> list[Entry[M]]:
        """All entries, or those up to `last`, oldest first. Raises DataLoss if one is damaged, and Unavailable."""
        return [intact(entry) for entry in await self.listed(1, last or await self.count())]

    async def newest(self) -> Entry[M] | None:
        """The state; None: there is no entry yet. Raises DataLoss if it is damaged, and Unavailable."""
        count = await self.count()
        return intact(await self.entry(count)) if count else None

    async def index(self) -> LedgerIndex[M]:
        """Of all entries. Raises DataLoss if one is damaged that no block has, and Unavailable."""
        count = await self.count()
        async with self._extending:
            while self._index.covered < count:
                last = await self._index.load(count)
                async for entry in in_order(self.entry, range(self._index.covered + 1, last + 1)):
                    await self._index.add(self._indexed(entry))
        return self._index

    async def append(
        self,
        message: M | Callable[[Entry[M] | None], Awaitable[M | None]],
        *,
        request_id: str,
        actor: str = "",
        expected: int | None = None,
    ) -> Entry[M]:
        """Return the entry of this request_id, appending it if there is none: a retried request is idempotent.

        A callable gets the newest entry and returns the message to append, or None to return that entry; it is called again
        after a lost race, and may raise. Raises Conflict when the newest number is not `expected`, InvalidArgument when the
        request_id was used for another message, DataLoss when an entry that it needs is damaged, Unavailable.
        """
        while True:
            index = await self.index()
            if known := index.number_of(request_id):
                found = await self.entry(known)
                indexed = index.messages[known - 1] if self.small else None
                if indexed and isinstance(found, DamagedEntry):
                    return Entry(known, request_id, index.time_ns(known), "", indexed)
                entry = intact(found)
                if isinstance(message, Message) and entry.message != message:
                    text = (
                        f"request_id {request_id} was used before for something else in {self.prefix}: send a new one"
                    )
                    raise InvalidArgument(text, field="request_id")
                return entry
            count = index.covered
            if expected is not None and expected != count:
                raise Conflict(f"{self.prefix} is at {count}, not at {expected}: read it again, then decide again")
            newest = await self._newest_for_append(count)
            new = message if isinstance(message, Message) else await message(newest)
            if new is None:
                assert newest, "where there is no entry a message must be appended"
                return newest
            if appended := await self._append_after(count, newest, new, request_id, actor):
                return appended

    async def _append_after(
        self, count: int, newest: Entry[M] | None, message: M, request_id: str, actor: str
    ) -> Entry[M] | None:
        """The new entry; None: another writer was first."""
        number, earliest = count + 1, newest.time_ns + 1000 if newest else 0
        stored = LedgerEntry(number=number, request_id=request_id, actor=actor)
        stored.time.CopyFrom(timestamp_of_ns(max(time.time_ns(), earliest)))
        stored.message.Pack(message)
        data = stored.SerializeToString()
        if not await self._put(key := self.key(number), data):
            return None
        self._cache[key] = made = read_entry(data, self.kind, key)
        self._count = max(self._count, number)
        return made

    def _indexed(self, entry: Entry[M] | DamagedEntry) -> Indexed[M]:
        if self.small and isinstance(entry, DamagedEntry):
            return Indexed()
        whole = intact(entry)
        return Indexed(whole.request_id, whole.time_ns, whole.message if self.small else None)

    async def _newest_for_append(self, count: int) -> Entry[M] | None:
        entry = await self.entry(count) if count else None
        if entry is None or (self.small and isinstance(entry, DamagedEntry)):
            return None
        return intact(entry)

    async def _exists(self, number: int) -> bool:
        return self.key(number) in self._cache or await self.blobs.exists(self.key(number))
