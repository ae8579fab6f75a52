"""Stored objects that a failing disk has cut in half, and that a backup brings back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from google.protobuf.message import DecodeError, Message

from millstream.operations.v1.stored_pb2 import LedgerEntry
from servicekit.blobs.port import Blobs


def half_of(data: bytes, kind: type[Message] = LedgerEntry) -> bytes:
    """The first half, or a little less where that would be a whole message with fewer fields."""
    for size in range(len(data) // 2, 0, -1):
        try:
            kind.FromString(data[:size])
        except DecodeError:
            return data[:size]
    raise AssertionError("every beginning of it is a message")


@asynccontextmanager
async def halved(blobs: Blobs, key: str, kind: type[Message] = LedgerEntry) -> AsyncIterator[None]:
    """The object is cut in half inside, and whole again afterwards."""
    whole = await blobs.get(key)
    await blobs.put(key, half_of(whole, kind))
    yield
    await blobs.put(key, whole)
