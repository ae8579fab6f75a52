"""Rows and configs as protobuf values.

A Struct has doubles alone: a message that must be exact carries the row as JSON text as well.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct, Value

from millstream.errors import InvalidArgument


def mapping_of(struct: Struct, field: str) -> dict[str, Any]:
    """The values of a Struct by name. Raises InvalidArgument, with the path below `field`, for NaN and infinity."""
    try:
        return MessageToDict(struct)
    except ValueError:
        path = next(_paths_not_finite(Value(struct_value=struct), ""), "")
        raise InvalidArgument(
            f"{field}{path} is no number that JSON has: use a finite one", field=field + path
        ) from None


def _paths_not_finite(value: Value, path: str) -> Iterator[str]:
    match value.WhichOneof("kind"):
        case "number_value" if not math.isfinite(value.number_value):
            yield path
        case "struct_value":
            for name, one in value.struct_value.fields.items():
                yield from _paths_not_finite(one, f"{path}.{name}")
        case "list_value":
            for number, one in enumerate(value.list_value.values):
                yield from _paths_not_finite(one, f"{path}[{number}]")


def struct_of(row: Mapping[str, Any]) -> Struct:
    """The row as a Struct; an empty one for a row with a number that no double can hold."""
    struct = Struct()
    try:
        struct.update(dict(row))
    except OverflowError:
        return Struct()
    return struct
