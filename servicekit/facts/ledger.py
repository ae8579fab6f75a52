"""The only way to change state: an append-only ledger of numbered, immutable entries under one prefix.

The newest entry is the state, all entries are the history. A writer that has read entries 1..n puts entry n+1 if absent; of
concurrent writers one succeeds, and the others read on and retry.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message

from millstream.errors import Conflict, DataLoss, InvalidArgument, NotFound
from millstream.operations.v1.stored_pb2 import LedgerEntry
from millstream.timestamps import timestamp_of_ns
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode, unpack

M = TypeVar("M", bound=Message)


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
    """Entries `{prefix}/{n:010d}`. They never change, so each is read once and cached; a damaged one is read again."""

    def __init__(self, blobs: Blobs, prefix: str, kind: type[M], put: Put | None = None) -> None:
        self.blobs, self.prefix, self.kind = blobs, prefix, kind
        self._put: Put = put or blobs.put_if_absent
        self._known: list[Entry[M] | DamagedEntry] = []

    def key(self, number: int) -> str:
        """The object's key of an entry."""
        return f"{self.prefix}/{number:010d}"

    async def entries(self) -> Sequence[Entry[M]]:
        """All entries, oldest first. Raises DataLoss if one is damaged, and Unavailable."""
        return tuple(intact(entry) for entry in await self.listed())

    async def listed(self) -> Sequence[Entry[M] | DamagedEntry]:
        """As entries(), with a stand-in for each damaged entry; reads only what is not yet cached. Raises Unavailable."""
        for number, entry in enumerate(tuple(self._known), 1):
            if isinstance(entry, DamagedEntry):
                with suppress(NotFound):  # it is being replaced
                    self._known[number - 1] = await self._read(number)
        while True:
            number = len(self._known) + 1
            try:
                read = await self._read(number)
            except NotFound:
                return tuple(self._known)
            if len(self._known) + 1 == number:
                self._known.append(read)

    async def newest(self) -> Entry[M] | None:
        """The state; None: there is no entry yet. Raises DataLoss if it is damaged, and Unavailable."""
        known = await self.listed()
        return intact(known[-1]) if known else None

    async def _read(self, number: int) -> Entry[M] | DamagedEntry:
        """Raises NotFound, Unavailable."""
        key = self.key(number)
        data = await self.blobs.get(key)
        try:
            return read_entry(data, self.kind, key)
        except DataLoss as error:
            return DamagedEntry(number, error.text, key)

    async def append(
        self,
        message: M | Callable[[Sequence[Entry[M]]], M | None],
        *,
        request_id: str,
        actor: str = "",
        expected: int | None = None,
    ) -> Entry[M]:
        """Return the entry of this request_id, appending it if there is none: a retried request is idempotent.

        A callable gets all entries and returns the message to append, or None to return the newest entry; it is called again
        after a lost race, and may raise. Raises Conflict when the newest number is not `expected`, InvalidArgument when the
        request_id was used for another message, DataLoss when an entry is damaged, Unavailable.
        """
        while True:
            known = await self.entries()
            for entry in known:
                if entry.request_id == request_id:
                    if isinstance(message, Message) and entry.message != message:
                        text = f"request_id {request_id} was used before for something else in {self.prefix}: send a new one"
                        raise InvalidArgument(text, field="request_id")
                    return entry
            if expected is not None and expected != len(known):
                raise Conflict(f"{self.prefix} is at {len(known)}, not at {expected}: read it again, then decide again")
            new = message if isinstance(message, Message) else message(known)
            if new is None:
                return known[-1]
            appended = await self._append_after(known, new, request_id, actor)
            if appended:
                return appended

    async def _append_after(
        self, known: Sequence[Entry[M]], message: M, request_id: str, actor: str
    ) -> Entry[M] | None:
        """The new entry; None: another writer was first."""
        earliest = known[-1].time_ns + 1000 if known else 0
        stored = LedgerEntry(number=len(known) + 1, request_id=request_id, actor=actor)
        stored.time.CopyFrom(timestamp_of_ns(max(time.time_ns(), earliest)))
        stored.message.Pack(message)
        data = stored.SerializeToString()
        if await self._put(key := self.key(stored.number), data):
            return read_entry(data, self.kind, key)
        return None
