"""What a request gives to predict for, checked by the recipe's own schema; a refusal names the very field."""

from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from pydantic import ValidationError

from millstream.errors import InvalidArgument
from recipekit.spec import Row, Spec

MOST_ROWS = 1024


def check_count(count: int, field: str) -> None:
    """Raises InvalidArgument unless there is something to do and not too much of it."""
    if not count:
        raise InvalidArgument(f"{field} is empty: give at least one", field=field)
    if count > MOST_ROWS:
        raise InvalidArgument(f"{field} has {count} entries: send at most {MOST_ROWS} at once", field=field)


def text_rows(spec: Spec, texts: Sequence[str], names: Callable[[int], str]) -> list[Row]:
    """Rows of one text each. `names(i)` is what the caller knows the i-th text as."""
    return [_checked(spec, {"text": text}, lambda _column, i=i: names(i)) for i, text in enumerate(texts)]  # type: ignore[misc]


def struct_rows(spec: Spec, rows: Sequence[Struct]) -> list[Row]:
    """Rows of any recipe. A field that the recipe does not read is refused, never ignored."""
    known = {name for column, info in spec.input.model_fields.items() for name in (column, info.alias or column)}
    open_ended = spec.input.model_config.get("extra") == "allow"
    checked = []
    for i, message in enumerate(rows):
        row = MessageToDict(message)
        if not open_ended and (unknown := sorted(set(row) - known)):
            raise InvalidArgument(
                f"rows[{i}].{unknown[0]} is no field of {spec.name}: its rows have {', '.join(sorted(known))}",
                field=f"rows[{i}].{unknown[0]}",
            )
        checked.append(_checked(spec, row, lambda column, i=i: f"rows[{i}].{column}"))  # type: ignore[misc]
    return checked


def _checked(spec: Spec, row: dict[str, Any], name: Callable[[str], str]) -> Row:
    try:
        return spec.input.model_validate(row).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        field = name(".".join(str(part) for part in first["loc"]))
        raise InvalidArgument(f"{field}: {first['msg']}", field=field) from None
