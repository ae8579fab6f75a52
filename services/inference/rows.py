"""The rows of a request, cleaned and checked by the recipe's schema; a refusal names the field as the door does."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from millstream.errors import InvalidArgument
from recipekit.cleaning import CannotClean
from recipekit.spec import Row, Spec
from recipekit.text_limits import TextTooLong, check_lengths

T = TypeVar("T")
MOST_ROWS = 1024
SLICE_CHARACTERS = 65_536
"""Rows of about so many characters are checked and tokenised at once; a longer row alone."""


@dataclass(frozen=True)
class RowsInput(Generic[T]):
    """Rows as a door received them, with the protocol's own names for the errors."""

    inputs: Sequence[T]
    parse: Callable[[T, int], Mapping[str, Any]]
    """(an input, its number) → {column: value}, or InvalidArgument; called in the prepare pool."""
    field: str
    """The protocol's name for the list of rows."""
    field_of: Callable[[int, str], str]
    """(number of a row, column) → the protocol's name for that value."""
    size_of: Callable[[T], int]
    """Characters of one input, or an upper bound; known without parsing it."""

    @cached_property
    def sizes(self) -> list[int]:
        """The size of each input."""
        return [self.size_of(one) for one in self.inputs]

    def slices(self) -> Iterator[range]:
        """The numbers of the rows, in slices of about SLICE_CHARACTERS; at least one row each."""
        begin, characters = 0, 0
        for number, size in enumerate(self.sizes):
            if number > begin and characters + size > SLICE_CHARACTERS:
                yield range(begin, number)
                begin, characters = number, 0
            characters += size
        if begin < len(self.inputs):
            yield range(begin, len(self.inputs))


def check_count(count: int, field: str) -> None:
    """Raises InvalidArgument unless there are 1 to MOST_ROWS entries."""
    if not count:
        raise InvalidArgument(f"{field} is empty: give at least one", field=field)
    if count > MOST_ROWS:
        raise InvalidArgument(f"{field} has {count} entries: send at most {MOST_ROWS} at once", field=field)


def columns_of(spec: Spec) -> set[str]:
    """The columns that the recipe reads of a row to predict for."""
    return {name for column, info in spec.input.model_fields.items() for name in (column, info.alias or column)}


def takes_other_columns(spec: Spec) -> bool:
    """Whether its rows may have other columns too."""
    return spec.input.model_config.get("extra") == "allow"


def checked_rows(
    spec: Spec,
    rows: RowsInput[T],
    numbers: Iterable[int],
    longest_text: int,
    clean: Callable[[Row], Mapping[str, Any]] = dict,
) -> list[Row]:
    """The rows with these numbers as the recipe reads them: cleaned, then checked, as dataprep does both.

    Raises InvalidArgument for a text of more than `longest_text` characters, for a value that cannot be cleaned or that the
    recipe's schema refuses, and for a column that it does not read: no column is ignored, unless the schema is open-ended.
    """
    columns, open_ended = columns_of(spec), takes_other_columns(spec)
    checked: list[Row] = []
    for number in numbers:
        row = rows.parse(rows.inputs[number], number)
        try:
            check_lengths(row, longest_text)
        except TextTooLong as error:
            field = rows.field_of(number, error.column)
            raise InvalidArgument(f"{field} has {error}: shorten it, or send it in parts", field=field) from None
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
