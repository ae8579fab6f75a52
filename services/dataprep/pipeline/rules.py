"""The rules of a dataset for one row: its schema, its identity, its split."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, DatasetSpec, Format
from recipekit.spec import Spec
from services.dataprep.pipeline.read import Bad, Refused

SPLITS = ("train", "validation", "test")
# By the start of pydantic's error type; the first that fits.
_WORDS = {
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
    """The rules of one dataset for the rows of one file. Methods raise Bad with a reason from a closed set."""

    def __init__(self, spec: DatasetSpec, recipe: Spec | None, file_format: Format.ValueType) -> None:
        self.split, self.recipe, self.csv = spec.split, recipe, file_format == FORMAT_CSV
        self.schema: type[BaseModel] | None = recipe.row if recipe else None
        self.label_column = (recipe.label or "") if recipe else ""

    def take_split(self, row: dict[str, Any], line: int) -> str:
        """The split that the row itself names, taken out of it unless the recipe's schema has that column."""
        column = self.split.column
        if not column:
            return ""
        keep = self.schema is not None and column in self.schema.model_fields
        said = row.get(column) if keep else row.pop(column, None)
        if said is None or said == "":
            raise Bad(f"{column}: missing")
        if said not in SPLITS:
            raise Refused(f"line {line}: {column} is {str(said)[:50]!r}: say {', '.join(SPLITS[:-1])} or {SPLITS[-1]}")
        return str(said)

    def check(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row as the schema reads it: numbers are numbers, defaults are filled in, unnamed columns are gone."""
        if self.schema is None:
            if not row:
                raise Bad("no columns")
            return row
        if self.csv:
            # A CSV has no other way to say that a value is not there.
            row = {name: cell for name, cell in row.items() if cell != ""}
        try:
            return self.schema.model_validate(row).model_dump(mode="json")
        except ValidationError as error:
            raise Bad(_reason(error)) from None

    def keeps(self, column: str) -> bool:
        """Whether cells of this column are in the snapshot."""
        if self.schema is not None:
            return column in self.schema.model_fields or (
                self.schema.model_config.get("extra") == "allow" and column != self.split.column
            )
        return column != self.split.column

    def identity(self, row: Mapping[str, Any], line: bytes) -> bytes:
        """Equal for rows that are the same: by the recipe's identity columns, else by the whole row."""
        if self.recipe and self.recipe.identity:
            line = encode({name: row.get(name) for name in self.recipe.identity})
        return hashlib.sha256(line).digest()

    def label(self, row: Mapping[str, Any]) -> Any:
        return row.get(self.label_column) if self.label_column else None

    def split_of(self, identity: bytes) -> str:
        """Decided by the row alone: neither its file, nor its place, nor other rows have a say.

        The shares lie side by side from 0, so that a changed share moves as few rows as possible.
        """
        place = int.from_bytes(identity[:8], "big") / 2**64
        if place < self.split.test_share:
            return "test"
        return "validation" if place < self.split.test_share + self.split.validation_share else "train"


def encode(row: Mapping[str, Any]) -> bytes:
    """The row's line in a part, without its LF; the same row always gives the same line (servicekit.blobs.parts)."""
    try:
        return json.dumps(row, ensure_ascii=False, sort_keys=True, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise Bad("broken Unicode") from None
    except ValueError:
        raise Bad("a number is not finite") from None


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    if first["type"] == "extra_forbidden":
        return "a column that the recipe does not know"
    column = str(first["loc"][0]) if first["loc"] else "row"
    return f"{column}: {'missing' if first.get('input') is None else _word(first['type'])}"


def _word(kind: str) -> str:
    for start, word in _WORDS.items():
        if kind.startswith(start):
            return word
    return "wrong type" if kind.endswith(("_type", "_parsing")) else "invalid"
