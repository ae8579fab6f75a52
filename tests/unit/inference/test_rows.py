"""Rows are checked by the recipe's schema, and a refusal names the field as the caller's protocol does."""

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from millstream.errors import InvalidArgument
from recipekit.spec import Config, Measured, Metric, Row, Spec
from services.inference.rows import MOST_ROWS, SLICE_CHARACTERS, RowsInput, check_count, checked_rows


class Author(BaseModel):
    age: int = 0


class Input(BaseModel):
    text: str = Field(min_length=1)
    kind: str = Field(default="plain", alias="class")
    author: Author = Author()


class Open(Input):
    model_config = ConfigDict(extra="allow")


def spec(input_: type[BaseModel] = Input) -> Spec:
    return Spec(
        name="notes",
        description="",
        config=Config,
        presets={"default": {}},
        row=input_,
        input=input_,
        prediction=input_,
        tasks={},
        identity=("text",),
        metrics=(Metric("accuracy", "share found"),),
        gate=(),
        measure=lambda rows, predictions: Measured({}),
        baseline=lambda train, test: [],
        baseline_name="none",
    )


def given(*rows: dict[str, Any]) -> RowsInput[dict[str, Any]]:
    return RowsInput(rows, lambda row, _: dict(row), "inputs", lambda number, column: f"inputs.{column}.{number}", size)


def size(row: dict[str, Any]) -> int:
    return len(str(row.get("text", "")))


def checked(spec_: Spec, rows: RowsInput[dict[str, Any]]) -> list[Row]:
    return checked_rows(spec_, rows, range(len(rows.inputs)), longest_text=9)


def test_rows_get_the_defaults_and_types_of_the_schema() -> None:
    assert checked(spec(), given({"text": "a"}, {"text": "b", "class": "x", "author": {"age": "7"}})) == [
        {"text": "a", "kind": "plain", "author": {"age": 0}},
        {"text": "b", "kind": "x", "author": {"age": 7}},
    ]


@pytest.mark.parametrize(
    ("row", "field", "text"),
    [
        ({}, "inputs.text.1", "required"),
        ({"text": ""}, "inputs.text.1", "at least 1 character"),
        ({"text": "a", "author": {"age": "old"}}, "inputs.author.age.1", "integer"),
        ({"text": "a" * 10}, "inputs.text.1", "inputs.text.1 has more than 9 characters: shorten it"),
        ({"text": "a", "class": ["a" * 10]}, "inputs.class.1", "more than 9 characters"),
        (
            {"text": "a", "txet": "b"},
            "inputs.txet.1",
            "recipe notes reads no column 'txet'; its rows have author, class,",
        ),
    ],
)
def test_a_refusal_names_the_field_as_the_protocol_does(row: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as refused:
        checked(spec(), given({"text": "fine"}, row))
    assert refused.value.field == field


def test_an_open_ended_schema_keeps_other_columns() -> None:
    assert checked(spec(Open), given({"text": "a", "other": 1}))[0]["other"] == 1


@pytest.mark.parametrize(("count", "text"), [(0, "texts is empty"), (MOST_ROWS + 1, f"at most {MOST_ROWS}")])
def test_a_request_has_some_rows_and_not_too_many(count: int, text: str) -> None:
    check_count(1, "texts")
    check_count(MOST_ROWS, "texts")
    with pytest.raises(InvalidArgument, match=text) as refused:
        check_count(count, "texts")
    assert refused.value.field == "texts"


def test_rows_are_prepared_in_slices_and_keep_their_numbers() -> None:
    half = SLICE_CHARACTERS // 2
    rows = given(*({"text": "x" * length} for length in (half, half, 1, SLICE_CHARACTERS + 1, 1, half, half)))
    slices = list(rows.slices())
    assert [list(numbers) for numbers in slices] == [[0, 1], [2], [3], [4, 5], [6]]
    with pytest.raises(InvalidArgument) as refused:
        checked_rows(spec(), rows, slices[-1], longest_text=half - 1)
    assert refused.value.field == "inputs.text.6"
    assert list(given().slices()) == []
