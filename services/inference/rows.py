"""The rows of a request, cleaned and checked by the recipe's schema; a refusal names the field as the door does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from millstream.errors import InvalidArgument
from recipekit.cleaning import CannotClean
from recipekit.spec import Row, Spec

T = TypeVar("T")
MOST_ROWS = 1024


@dataclass(frozen=True)
class RowsInput(Generic[T]):
    """Rows as a door received them, with the protocol's own names for the errors."""

    inputs: Sequence[T]
    parse: Callable[[T], Mapping[str, Any]]
    """One input as {column: value}; called in the prepare pool."""
    field: str
    """The protocol's name for the list of rows."""
    field_of: Callable[[int, str], str]
    """(number of a row, column) → the protocol's name for that value."""


def check_count(count: int, field: str) -> None:
    """Raises InvalidArgument unless there are 1 to MOST_ROWS entries."""
    if not count:
        raise InvalidArgument(f"{field} is empty: give at least one", field=field)
    if count > MOST_ROWS:
        raise InvalidArgument(f"{field} has {count} entries: send at most {MOST_ROWS} at once", field=field)


def checked_rows(spec: Spec, rows: RowsInput[T], clean: Callable[[Row], Mapping[str, Any]] = dict) -> list[Row]:
    """The rows as the recipe reads them: cleaned, then checked, as dataprep does both.

    Raises InvalidArgument for a value that cannot be cleaned or that its schema refuses, and for a column that it does
    not read: no column is ignored, unless the recipe's schema is open-ended.
    """
    columns = {name for column, info in spec.input.model_fields.items() for name in (column, info.alias or column)}
    open_ended = spec.input.model_config.get("extra") == "allow"
    checked: list[Row] = []
    for number, given in enumerate(rows.inputs):
        row = rows.parse(given)
        if not open_ended and (unknown := sorted(set(row) - columns)):
            field = rows.field_of(number, unknown[0])
            raise InvalidArgument(
                f"{field}: recipe {spec.name} reads no column {unknown[0]!r}; its rows have {', '.join(sorted(columns))}",
                field=field,
            )
        try:
            checked.append(spec.input.model_validate(clean(row)).model_dump(mode="json"))
        except CannotClean as error:
            field = rows.field_of(number, error.column)
            raise InvalidArgument(f"{field}: {error}", field=field) from None
        except ValidationError as error:
            first = error.errors()[0]
            field = rows.field_of(number, ".".join(str(part) for part in first["loc"]))
            raise InvalidArgument(f"{field}: {first['msg']}", field=field) from None
    return checked
