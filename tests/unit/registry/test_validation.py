"""A model's spec is accepted only if its recipe knows everything in it; a refusal names the first wrong field."""

import math
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import InvalidArgument
from millstream.registry.v1.model_pb2 import ModelSpec
from recipekit.catalog import Catalog
from services.registry.validation import check_spec

CATALOG = Catalog(["tests.recipes"])
GOOD = {
    "model": "toy",
    "recipe": "toy_words",
    "dataset": "words",
    "preset": "toy",
    "config": {"steps": 5},
    "gate": [{"metric": "accuracy", "at_least": 0.5}],
    "serving": {"aliases": ["champion"]},
    "training": {"time_limit": "9s", "minimum_interval": "1s", "resources": {"nodes": 2, "gpus": 1}},
}


def spec_of(change: dict[str, Any]) -> ModelSpec:
    return ParseDict({**GOOD, **change}, ModelSpec())


@pytest.mark.parametrize("change", [{}, {"preset": "", "config": {}, "gate": []}])
def test_a_spec_that_its_recipe_knows_is_accepted(change: dict[str, Any]) -> None:
    check_spec(spec_of(change), CATALOG)


@pytest.mark.parametrize(
    ("change", "field", "text"),
    [
        ({"recipe": "nothing"}, "spec.recipe", "there are: toy_words"),
        ({"preset": "huge"}, "spec.preset", "it has: default, toy"),
        ({"config": {"steps": 0}}, "spec.config.steps", "greater than or equal to 1"),
        ({"gate": [{"metric": "beauty"}]}, "spec.gate[0].metric", "has: accuracy, macro_f1"),
        ({"training": {"minimum_interval": "0s"}}, "spec.training.minimum_interval", "above 0 s"),
        (
            {"training": {"resources": {"nodes": 2}}},
            "spec.training.resources.nodes",
            "set spec.training.resources.gpus",
        ),
    ],
)
def test_a_refusal_names_the_field_and_what_would_do(change: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text) as caught:
        check_spec(spec_of(change), CATALOG)
    assert caught.value.field == field
    assert field in caught.value.text


@pytest.mark.parametrize("number", [math.nan, -math.inf])
def test_a_config_with_a_number_that_json_lacks_is_refused_by_its_place(number: float) -> None:
    spec = spec_of({})
    spec.config.fields["steps"].number_value = number
    with pytest.raises(InvalidArgument) as caught:
        check_spec(spec, CATALOG)
    assert caught.value.field == "spec.config.steps"
