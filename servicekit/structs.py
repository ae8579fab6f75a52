"""Rows as protobuf values. A Struct has doubles alone: a message that must be exact carries the row as JSON text as well."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct


def struct_of(row: Mapping[str, Any]) -> Struct:
    """The row as a Struct; an empty one for a row with a number that no double can hold."""
    struct = Struct()
    try:
        struct.update(dict(row))
    except OverflowError:
        return Struct()
    return struct
