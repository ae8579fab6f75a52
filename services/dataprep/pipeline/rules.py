"""The rules of a dataset for one row: its schema, its label, its split."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, DatasetSpec, Format
from recipekit.spec import Spec, row_key
from servicekit.blobs.parts import LONGEST_ROW, encode_row
from services.dataprep.pipeline.read import BadRow, Refused
from services.dataprep.pipeline.spelling import as_text, whole_number

_NO_LABEL = bytes(32)
SPLITS = ("train", "validation", "test")
# The reason for each beginning of pydantic's error type; the first that fits.
_REASONS = {
    "missing": "missing",
    "string_too_short": "too short",
    "too_short": "too short",
    "string_too_long": "too long",
    "too_long": "too long",
    "string_pattern": "has another form",
    "greater_than": "out of range",
    "less_than": "out of range",
    "finite_number": "out of range",
    "multiple_of": "out of range",
    "literal_error": "unknown value",
    "enum": "unknown value",
}


class Rules:
    """The rules of one dataset for the rows of one file. Methods raise BadRow with a reason from a closed set."""

    def __init__(self, spec: DatasetSpec, recipe: Spec | None, file_format: Format.ValueType) -> None:
        self.split, self.recipe, self.csv = spec.split, recipe, file_format == FORMAT_CSV
        self.schema: type[BaseModel] | None = recipe.row if recipe else None
        self.label_column = (recipe.label or "") if recipe else ""
        self.names_column = self.label_column if recipe and recipe.names_labels else ""
        """The label column where it holds names of classes; "" where there is none, or it holds real numbers."""
        self._label_is_text = bool(
            recipe and self.names_column and recipe.row.model_fields[self.names_column].annotation is str
        )

    def take_split(self, row: dict[str, Any]) -> str:
        """The split that the split column names; "" where the spec has none.

        The column is removed from the row unless the recipe's schema has it. Raises Refused for an unknown split.
        """
        column = self.split.column
        if not column:
            return ""
        keep = self.schema is not None and column in self.schema.model_fields
        split = row.get(column) if keep else row.pop(column, None)
        if split is None or split == "":
            raise BadRow(f"{column}: missing")
        if split not in SPLITS:
            raise Refused(f"{column} is {str(split)[:50]!r}: use {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
        return str(split)

    def with_label(self, row: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool]:
        """The row with its label in its one spelling, and whether that is another: `1` for `1.0`.

        Where the schema wants a text, integers and booleans of JSON are texts too, as a CSV has them.
        """
        if not self.names_column:
            return row, False
        found = row.get(self.label_column)
        label = whole_number(found)
        normalised = label is not found
        if self._label_is_text:
            label = as_text(label)
        return (row if label is found else {**row, self.label_column: label}), normalised

    def check(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row as the schema reads it: numbers are numbers, defaults are filled in, other columns are dropped."""
        if self.schema is None:
            if not row:
                raise BadRow("no columns")
            return dict(row)
        if self.csv:
            # In a CSV an empty cell is the only way to leave a value out.
            row = {name: cell for name, cell in row.items() if cell != ""}
        try:
            return self.schema.model_validate(row).model_dump(mode="json")
        except ValidationError as error:
            raise BadRow(_reason(error)) from None

    def keeps(self, column: str) -> bool:
        """Whether the snapshot holds this column."""
        if self.schema is not None:
            return column in self.schema.model_fields or (
                self.schema.model_config.get("extra") == "allow" and column != self.split.column
            )
        return column != self.split.column

    def key(self, row: Mapping[str, Any]) -> bytes:
        """Equal for rows that are the same: by the recipe's identity columns; without a recipe by the whole row."""
        return self.recipe.row_key(row) if self.recipe else row_key(row)

    def label_key(self, row: Mapping[str, Any]) -> bytes:
        """Equal for rows with the same value in the recipe's label column, and for all rows without one."""
        return row_key(row, (self.label_column,)) if self.label_column else _NO_LABEL

    def split_of(self, key: bytes) -> str:
        """The split of a row key, by the shares alone: a row has the same split in every file and at every place.

        The shares lie side by side from 0, so a changed share moves as few rows as possible.
        """
        place = int.from_bytes(key[:8], "big") / 2**64
        if place < self.split.test_share:
            return "test"
        return "validation" if place < self.split.test_share + self.split.validation_share else "train"


def encode(row: Mapping[str, Any]) -> bytes:
    """The row's line in a part (encode_row). Raises BadRow."""
    try:
        line = encode_row(row)
    except UnicodeEncodeError:
        raise BadRow("broken Unicode") from None
    except ValueError:
        raise BadRow("a number is not finite") from None
    if len(line) > LONGEST_ROW:
        raise BadRow("row too long")
    return line


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "extra_forbidden":
        return "a column that the recipe does not know"
    column = str(first["loc"][0]) if first["loc"] else "row"
    return f"{column}: {'missing' if first.get('input') is None else _reason_of(first['type'])}"


def _reason_of(error_type: str) -> str:
    for start, reason in _REASONS.items():
        if error_type.startswith(start):
            return reason
    return "wrong type" if error_type.endswith(("_type", "_parsing")) else "invalid"
