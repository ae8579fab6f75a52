"""Values that protobuf carries and the platform does not take: numbers that are not finite, impossible times."""

import math
from collections.abc import Iterable
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.errors import InvalidArgument

_STRUCT = Struct.DESCRIPTOR.full_name
"""Rows and configs: servicekit/structs.py checks them where they are read, because a request may hold many."""
# No request has a map of decimals or times.
_TIMES = {Duration.DESCRIPTOR.full_name, Timestamp.DESCRIPTOR.full_name}
_DECIMALS = {FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT}


def check_values(message: Message) -> None:
    """Raise InvalidArgument for the first Duration, Timestamp or decimal that has no meaning, with its path as the field."""
    for path, text in _wrong(message, ""):
        raise InvalidArgument(f"{path}: {text}", field=path)


def _wrong(message: Message, prefix: str) -> Iterable[tuple[str, str]]:
    for field in _checked_fields(message.DESCRIPTOR):
        for path, value in _values(message, field, f"{prefix}{field.name}"):
            if field.type in _DECIMALS:
                if not math.isfinite(value):
                    yield path, f"{value} is no number: use a finite one"
            elif isinstance(value, Duration | Timestamp):
                try:
                    value.ToJsonString()
                except ValueError as error:
                    yield path, str(error)
            else:
                yield from _wrong(value, f"{path}.")


def _values(message: Message, field: FieldDescriptor, path: str) -> Iterable[tuple[str, Any]]:
    """The values of a field that are set, each with its path."""
    value: Any = getattr(message, field.name)
    if not field.is_repeated:
        if not field.has_presence or message.HasField(field.name):
            yield path, value
    else:
        for number, one in enumerate(value):
            yield f"{path}[{number}]", one


@cache
def _checked_fields(kind: Descriptor) -> tuple[FieldDescriptor, ...]:
    """The fields of a message in which something may be wrong; most requests have none."""
    return tuple(field for field in kind.fields if _is_checked(field, (kind,)))


def _is_checked(field: FieldDescriptor, within: tuple[Descriptor, ...]) -> bool:
    kind = field.message_type
    if kind is None:
        return field.type in _DECIMALS
    if kind.full_name in _TIMES:
        return True
    if kind.full_name == _STRUCT or kind in within or kind.GetOptions().map_entry:
        return False
    return any(_is_checked(inner, (*within, kind)) for inner in kind.fields)
