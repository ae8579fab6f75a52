"""Identifiers: hashes of content, or UUIDs of version 7 (RFC 9562), which sort by time."""

import hashlib
import re
import secrets
import time
import uuid

from google.protobuf.message import Message

from millstream.errors import InvalidArgument

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=~-]{0,99}")


def new_id() -> str:
    """A UUIDv7: 48 bits of milliseconds, then random bits."""
    value = (time.time_ns() // 1_000_000) << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def hash_of(*parts: str | int | bytes | Message) -> str:
    """32 hex digits of SHA-256 over the parts in this order, each with its length, so that no two lists collide."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Message):
            part = part.SerializeToString(deterministic=True)
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:32]


def check_name(name: str, field: str) -> str:
    """Return a name that is valid as a DNS label (RFC 1123), and so in a key. Raises InvalidArgument for the field."""
    if not _NAME.fullmatch(name):
        raise InvalidArgument(
            f"{field} is {name!r}: use 1 to 63 lower-case letters, digits and hyphens, starting and ending with no hyphen",
            field=field,
        )
    return name


def check_request_id(request_id: str) -> str:
    """Return the caller's request_id, or a new one for an empty one. Raises InvalidArgument."""
    if not request_id:
        return new_id()
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidArgument(
            "request_id: use 1 to 100 letters, digits and . _ = ~ -, a UUID for example", field="request_id"
        )
    return request_id
