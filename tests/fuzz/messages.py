"""Random messages of any type: empty, plausible, extreme, with unknown fields, or bytes that are no message."""

import random
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

DEEPEST = 6
TEXTS = (
    "", " ", "x", "x" * 300, "y" * 20_000, "a/b", "../../etc/passwd", "a\x00b", "a\nb", "\x1b[31mred", "\u202eabc", "é",
    "e\u0301", "\ufeff", "\u200b", "\ud7ff", "\U0010ffff", "a" + "\u0301" * 200, "-1", "0", "1e400", "NaN", "²",
    "9" * 5000, "%s%n", "{}", "[]", "null", "'; drop table", "$(id)", "con", ".", "..", "*", "?", "champion",
)  # fmt: skip
INTEGERS = (0, 1, 2, 3, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**64 - 1, -1, -2, -(2**31), -(2**63))
DECIMALS = (0.0, -0.0, 1.0, 0.5, -1.0, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))
_RANGES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_SINT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_SINT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}


class Messages:
    """Makes messages with one source of randomness. `names` are values that exist, by the name of a field."""

    def __init__(self, rng: random.Random, names: Mapping[str, Sequence[str]]) -> None:
        self.rng, self.names = rng, names

    def bytes_of(self, kind: Any) -> bytes:
        """A message of this type as it is sent, or bytes that pretend to be one."""
        way = self.rng.choices(("plausible", "extreme", "empty", "unknown", "cut", "noise"), (5, 4, 1, 1, 1, 1))[0]
        if way == "empty":
            return b""
        if way == "noise":
            return self.rng.randbytes(self.rng.choice((1, 7, 100, 5000)))
        data = self.message(kind, plausible=way != "extreme").SerializeToString()
        if way == "unknown":
            return data + self._unknown_field()
        if way == "cut" and data:
            return data[: self.rng.randrange(len(data))]
        return data

    def message(self, kind: Any, *, plausible: bool, depth: int = 0) -> Message:
        """A message with some of its fields set."""
        made: Any = GetMessageClass(kind)()
        if kind.full_name == "google.protobuf.Struct":
            made.update({self.text("", plausible): self._json(0) for _ in range(self.rng.randrange(4))})
            return made
        for field in kind.fields:
            if self.rng.random() < (0.3 if plausible else 0.4) and not (
                plausible and field.name in ("model", "dataset")
            ):
                continue
            if depth >= DEEPEST and field.message_type is not None:
                continue
            self._set(made, field, plausible, depth)
        return made

    def text(self, name: str, plausible: bool) -> str:
        """A value for a text field of this name."""
        if plausible and name in self.names and self.rng.random() < 0.9:
            return self.rng.choice(self.names[name])
        return self.rng.choice(TEXTS)

    def _set(self, made: Any, field: FieldDescriptor, plausible: bool, depth: int) -> None:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for _ in range(self.rng.randrange(3)):
                if value.message_type is None:
                    getattr(made, field.name)[self._scalar(key, plausible)] = self._scalar(value, plausible)
        elif field.is_repeated:
            for _ in range(self.rng.choice((0, 1, 2, 5) if plausible else (0, 1, 3, 1100))):
                if field.message_type is not None:
                    inner = self.message(field.message_type, plausible=plausible, depth=depth + 2)
                    getattr(made, field.name).append(inner)
                else:
                    getattr(made, field.name).append(self._scalar(field, plausible))
        elif field.message_type is not None:
            getattr(made, field.name).CopyFrom(self.message(field.message_type, plausible=plausible, depth=depth + 1))
        else:
            setattr(made, field.name, self._scalar(field, plausible))

    def _scalar(self, field: FieldDescriptor, plausible: bool) -> Any:
        if field.type == FieldDescriptor.TYPE_STRING:
            text = self.text(field.name, plausible)
            return text[:200] if plausible else text
        if field.type == FieldDescriptor.TYPE_BYTES:
            return self.rng.randbytes(self.rng.choice((0, 1, 50, 3000)))
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self.rng.random() < 0.5
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            return self.rng.choice((0.0, 0.1, 0.5, 1.0) if plausible else DECIMALS)
        if field.enum_type is not None:
            return self.rng.choice(
                [value.number for value in field.enum_type.values] if plausible else (0, 1, 2, 99, -1)
            )
        least, most = _RANGES.get(field.type, (0, 2**31 - 1))
        found = [number for number in INTEGERS[: 4 if plausible else None] if least <= number <= most]
        return self.rng.choice(found)

    def _json(self, depth: int) -> Any:
        if depth < 4 and self.rng.random() < 0.3:
            inner = [self._json(depth + 1) for _ in range(self.rng.randrange(4))]
            return inner if self.rng.random() < 0.5 else {self.text("", False): value for value in inner}
        return self.rng.choice([None, True, *TEXTS[:20], *DECIMALS])

    def _unknown_field(self) -> bytes:
        """Field 15,000 with some bytes (protobuf's wire format: tag, length, bytes)."""
        data = self.rng.randbytes(20)
        return bytes((0xC2, 0xA9, 0x07)) + struct.pack("B", len(data)) + data
