"""Stored messages: the one place where bytes of the store become messages, and damaged ones an error with their key."""

from typing import TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message

from millstream.errors import DataLoss

M = TypeVar("M", bound=Message)


def decode(kind: type[M], data: bytes, key: str) -> M:
    """The message that the object of this key holds. Raises DataLoss for bytes that are no such message, and for none.

    A failing disk cuts objects or empties them, and no object that holds a message is empty.
    """
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise _damaged(kind, key) from None
    if not data:
        raise _damaged(kind, key)
    return message


def unpack(kind: type[M], packed: Any, key: str) -> M:
    """The message inside another one of this key. Raises DataLoss for a message of another type."""
    message = kind()
    try:
        unpacked = packed.Unpack(message)
    except DecodeError:
        unpacked = False
    if not unpacked:
        raise _damaged(kind, key)
    return message


def _damaged(kind: type[Message], key: str) -> DataLoss:
    name = kind.DESCRIPTOR.name
    text = (
        f"the stored object {key} is damaged, it holds no {name}: restore it from a backup, then all goes on by itself"
    )
    return DataLoss(text, key=key)
