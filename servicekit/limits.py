"""What callers may send and have stored: the one home of these limits and of their checks.

They keep every stored object far below what one message may hold, so that no caller can make an object that others
cannot read.
"""

from google.protobuf.message import Message

from millstream.channel import MAX_MESSAGE_BYTES
from millstream.errors import InvalidArgument

REASON_CHARACTERS = 2000
"""Of a reason, an override or a note."""
FILE_NAME_CHARACTERS = 255
COLUMN_CHARACTERS = 200
"""Of a column's name."""
CALLER_CHARACTERS = 200
"""Of a caller's name in the file of tokens, which ledgers keep."""
SPEC_BYTES = 64 << 10
"""Of a spec as a message."""
GATE_RULES = 100
SERVED_ALIASES = 100

PAGE_BYTES = 4 << 20
"""Of the items on one page of a listing; what does not fit is on the next page."""
SENT_BYTES = MAX_MESSAGE_BYTES - (64 << 10)
"""Of one object in an answer: a message holds it and what surrounds it."""
REQUEST_BYTES = 1 << 20
"""Most bytes of one request message, unless its service is named below."""
_REQUEST_BYTES = {
    "millstream.dataset.v1.DatasetService": MAX_MESSAGE_BYTES,  # chunks of files
    "millstream.inference.v1.InferenceService": MAX_MESSAGE_BYTES,  # rows to predict
    "grpc.health.v1.Health": 512,  # open to everybody: one name, which a watch keeps in memory
    "grpc.reflection.v1.ServerReflection": 4096,  # open to everybody
    "grpc.reflection.v1alpha.ServerReflection": 4096,
}


def request_bytes(service: str) -> int:
    """The most bytes that one request message to a gRPC service may have."""
    return _REQUEST_BYTES.get(service, REQUEST_BYTES)


def check_text(text: str, most: int, field: str) -> str:
    """Return a text of at most that many characters. Raises InvalidArgument for the field."""
    if len(text) > most:
        raise InvalidArgument(f"{field} has {len(text):,} characters: use at most {most:,}", field=field)
    return text


def check_reason(text: str, field: str = "reason") -> str:
    """Return a reason, an override or a note. Raises InvalidArgument for one that is too long."""
    return check_text(text, REASON_CHARACTERS, field)


def check_count(count: int, most: int, field: str) -> None:
    """Raise InvalidArgument for a field with more than that many entries."""
    if count > most:
        raise InvalidArgument(f"{field} has {count:,} entries: use at most {most:,}", field=field)


def check_spec_size(spec: Message, field: str = "spec") -> None:
    """Raise InvalidArgument for a spec of more than SPEC_BYTES, before anything else reads it."""
    if spec.ByteSize() > SPEC_BYTES:
        raise InvalidArgument(
            f"{field} has {spec.ByteSize():,} bytes: use at most {SPEC_BYTES:,}; long values belong into the data",
            field=field,
        )
