"""What callers give to predict for, checked before it is sent. Python takes a str for a sequence of str, gRPC would too."""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.struct_pb2 import Struct

from millstream.client.shared import struct
from millstream.errors import InvalidArgument


def checked_text(text: object, field: str) -> str:
    """The text. Raises InvalidArgument for what is no str, or holds half of a surrogate pair, which no message can carry."""
    if not isinstance(text, str):
        raise InvalidArgument(f"{field} is {_shown(text)}: a text is a str", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(
            f"{field} holds half of a surrogate pair at character {error.start}: decode its bytes as UTF-8", field=field
        ) from None
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
        made.append(struct(row))
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
    shown = repr(value)
    return f"{shown[:60]}… ({type(value).__name__})" if len(shown) > 60 else f"{shown} ({type(value).__name__})"
