"""What callers give, checked before it is sent. Python takes a str for a sequence of str, gRPC would too."""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct

from millstream.errors import InvalidArgument
from millstream.registry.v1.model_pb2 import ModelSpec

NESTED = 30
"""Levels of lists and mappings within each other. Protobuf parses a hundred messages deep, and a level is three of them."""


def model_spec(spec: ModelSpec | Mapping[str, Any]) -> ModelSpec:
    """A spec from its message or from a mapping such as a model.yaml. Raises InvalidArgument naming the wrong field."""
    if isinstance(spec, ModelSpec):
        return spec
    check_values(spec, "spec")
    try:
        return ParseDict(dict(spec), ModelSpec())
    except ParseError as error:
        raise InvalidArgument(f"this is no model spec: {error}", field="spec") from None


def struct(values: Mapping[str, Any], field: str) -> Struct:
    """A Struct from a mapping. Raises InvalidArgument as check_values() does."""
    check_values(values, field)
    made = Struct()
    made.update(values)
    return made


def check_values(values: object, field: str) -> None:
    """Raise InvalidArgument, with the path below `field`, for the first value that JSON in a message cannot hold."""
    for path, text in _unfit(values, field, 0):
        raise InvalidArgument(f"{path}: {text}", field=path)


def _unfit(value: object, path: str, level: int) -> Iterator[tuple[str, str]]:
    if level > NESTED:
        yield path, f"nested more than {NESTED} levels deep"
    elif isinstance(value, Mapping):
        for name, one in value.items():
            if not isinstance(name, str):
                yield path, f"the name {_shown(name)} is no str"
            yield from _unfit(name, f"{path}.{name!r}", level)
            yield from _unfit(one, f"{path}.{name}", level + 1)
    elif isinstance(value, list | tuple):
        for number, one in enumerate(value):
            yield from _unfit(one, f"{path}[{number}]", level + 1)
    elif isinstance(value, str):
        if (place := _lone_surrogate(value)) is not None:
            yield path, f"half of a surrogate pair at character {place}: decode its bytes as UTF-8"
    elif isinstance(value, int | float):
        if not _is_a_double(value):
            yield path, f"{_shown(value)} is no number that a message can hold: use a finite one"
    elif value is not None:
        yield path, f"{_shown(value)} is no text, number, true, false, null, list or mapping"


def _is_a_double(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:
        return False


def _lone_surrogate(text: str) -> int | None:
    """The place of the first half of a surrogate pair, which no message can carry; None if there is none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def checked_text(text: object, field: str) -> str:
    """The text. Raises InvalidArgument for what is no str, or holds half of a surrogate pair, which no message can carry."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{field} is {_shown(text)}: a text is a str", field=field)
    check_values(text, field)
    return text


def checked_texts(texts: object, field: str = "texts") -> list[str]:
    """The texts as a list. Raises InvalidArgument for one str, which would be sent letter by letter, and for no texts."""
    if isinstance(texts, str | bytes):
        raise InvalidArgument(f"{field} is one {type(texts).__name__}: pass a list, [text]", field=field)
    return [checked_text(text, f"{field}[{number}]") for number, text in enumerate(_listed(texts, field))]


def checked_rows(rows: object) -> list[Struct]:
    """The rows as messages. Raises InvalidArgument for one row or one str, and for an entry that is no mapping."""
    if isinstance(rows, str | bytes | Mapping):
        raise InvalidArgument(
            f"rows is one {type(rows).__name__}: pass a list of rows, [{{column: value}}]", field="rows"
        )
    made: list[Struct] = []
    for number, row in enumerate(_listed(rows, "rows")):
        if not isinstance(row, Mapping):
            field = f"rows[{number}]"
            raise InvalidArgument(f"{field} is {_shown(row)}: a row is a mapping, {{column: value}}", field=field)
        made.append(struct(row, f"rows[{number}]"))
    return made


def checked_candidates(candidates: object) -> dict[str, list[str]]:
    """{id: its texts}. Raises InvalidArgument for another form, and for a candidate with one str as its texts."""
    if not isinstance(candidates, Mapping):
        raise InvalidArgument(f"candidates is {_shown(candidates)}: pass a mapping, {{id: [text]}}", field="candidates")
    return {
        checked_text(name, "candidates.id"): checked_texts(texts, f"candidates[{name!r}]")
        for name, texts in candidates.items()
    }


def _listed(values: object, field: str) -> Iterable[Any]:
    if not isinstance(values, Iterable) or isinstance(values, Mapping):
        raise InvalidArgument(f"{field} is {_shown(values)}: pass a list", field=field)
    return values


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 200:  # Python writes no more than 4300 digits
        return f"a number of {value.bit_length():,} bits"
    shown = repr(value)
    return f"{shown[:60]}… ({type(value).__name__})" if len(shown) > 60 else f"{shown} ({type(value).__name__})"
