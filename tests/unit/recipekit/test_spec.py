"""What a recipe's spec decides: which rows are the same, and whether a run's config is valid."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.catalog import Catalog
from recipekit.spec import BadConfig, row_key
from tests.recipes.toy_words.spec import SPEC

ROWS = st.dictionaries(
    st.sampled_from(["text", "label", "score"]),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text("aé \u2028"),
)


@given(ROWS)
def test_a_row_has_the_same_key_in_any_order_of_columns_and_once_read_back(row: dict[str, Any]) -> None:
    for identity in ((), ("text",)):
        key = row_key(row, identity)
        assert len(key) == 32
        assert row_key(dict(reversed(row.items())), identity) == key
        assert row_key(json.loads(json.dumps(row)), identity) == key


def test_identity_columns_decide_alone_and_without_them_every_column_counts() -> None:
    row, relabelled, other = {"text": "a", "label": "good"}, {"text": "a", "label": "bad"}, {"text": "b"}
    assert SPEC.row_key(row) == SPEC.row_key(relabelled) != SPEC.row_key(other)
    whole = replace(SPEC, identity=())
    assert len({whole.row_key(one) for one in (row, relabelled, other)}) == 3


@pytest.mark.parametrize("value", [float("nan"), "\ud800"])
def test_a_row_that_json_cannot_hold_has_no_key(value: Any) -> None:
    with pytest.raises(ValueError):
        row_key({"text": value})


def test_a_config_is_complete_and_its_overrides_win_over_the_preset() -> None:
    spec = replace(SPEC, presets={"default": {}, "small": {"steps": 5, "batch_rows": 2}})
    config = spec.configure("small", {"steps": 7}).model_dump()
    assert (config["steps"], config["batch_rows"], config["seed"]) == (7, 2, 42)
    assert spec.configure("", {}) == spec.configure("default", {})


@pytest.mark.parametrize(
    ("recipe", "preset", "overrides", "field", "text"),
    [
        ("nothing", "", {}, "recipe", "there are: toy_words"),
        ("toy_words", "huge", {}, "preset", "'huge'; it has: default, toy"),
        ("toy_words", "", {"steps": 0}, "config.steps", "greater than or equal to 1"),
        ("toy_words", "", {"no_such_field": 1}, "config.no_such_field", "not permitted"),
    ],
)
def test_a_wrong_config_is_refused_by_its_field(
    recipe: str, preset: str, overrides: dict[str, Any], field: str, text: str
) -> None:
    with pytest.raises(BadConfig, match=text) as caught:
        Catalog(["tests.recipes"]).configure(recipe, preset, overrides)
    assert caught.value.field == field and str(caught.value).startswith(f"{field}: ")
