"""What every recipe must declare and refuse: bounds of its config, metrics of its tasks, rows that it cannot learn from."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from recipekit.run import Data, LocalRun, Progress
from recipekit.spec import BadData, Row
from tests.contract.test_recipe_suite import CATALOG, sample


@pytest.mark.parametrize("name", CATALOG.names())
def test_every_number_of_a_config_has_bounds(name: str) -> None:
    """A config is a request: without an upper bound one field alone can take a machine's memory, or a slot for ever."""
    fields = CATALOG.spec(name).config.model_json_schema()["properties"]
    kinds = [(field, kind) for field, found in fields.items() for kind in _numbers(found)]
    assert ("seed", "integer") in [(field, kind["type"]) for field, kind in kinds]
    for field, kind in kinds:
        assert {"maximum", "exclusiveMaximum"} & kind.keys(), f"config.{field} has no upper bound"
        assert {"minimum", "exclusiveMinimum"} & kind.keys(), f"config.{field} has no lower bound"
    for field, found in fields.items():
        assert found.get("type") != "array" or "maxItems" in found, f"config.{field} may be of any length"


@pytest.mark.parametrize("name", CATALOG.names())
def test_the_gate_has_a_rule_on_what_each_served_task_rests_on(name: str) -> None:
    spec = CATALOG.spec(name)
    metrics = {metric.name for metric in spec.metrics}
    ruled = {rule.metric for rule in spec.gate}
    for task, rests_on in spec.tasks.items():
        assert rests_on, f"{task} names no metric: how would a report show that it got worse?"
        assert set(rests_on) <= metrics, f"{task} rests on {set(rests_on) - metrics}, which is not declared"
        assert set(rests_on) <= ruled, f"the gate has no rule on {set(rests_on) - ruled}, which {task} rests on"
    for metric in {name for rests_on in spec.tasks.values() for name in rests_on}:
        rules = [rule for rule in spec.gate if rule.metric == metric]
        least = any(bound is not None for rule in rules for bound in (rule.at_least, rule.at_most, rule.over_baseline))
        assert least, f"{metric} may be of any value if there is no champion"
        assert any(rule.over_champion is not None for rule in rules), f"{metric} may fall below the champion's"


def _bad(name: str) -> list[tuple[str, list[Row], str]]:
    spec, rows = CATALOG.spec(name), list(sample(name)[0].train)
    column = spec.label or ""
    one = str(rows[0][column])
    return [
        ("no label", [{k: v for k, v in row.items() if k != column} for row in rows], f"no column '{column}'; they have"),
        ("some without", [{**row, column: None} if i < 3 else row for i, row in enumerate(rows)], f"3 of {len(rows)} rows"),
        ("one label", [{**row, column: one} for row in rows], f"only one label: '{one}' × {len(rows)}"),
        ("all distinct", [{**row, column: str(i)} for i, row in enumerate(rows)], f"{len(rows)} labels in {len(rows)} rows"),
        ("no rows", [], "there are 0 rows to train on"),
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("name", [name for name in CATALOG.names() if CATALOG.spec(name).label])
def test_rows_that_nothing_can_be_learnt_from_are_refused_before_the_first_step(
    name: str, number: int, tmp_path: Path
) -> None:
    _, train, text = _bad(name)[number]
    reports: list[Progress] = []
    run = LocalRun(tmp_path, reports.append)
    with pytest.raises(BadData, match=re.escape(text)):
        CATALOG.fit(name)(CATALOG.spec(name).configure("toy", {}), Data(train, sample(name)[0].validation), run)
    assert not reports and not list(run.artifact.iterdir())


def _numbers(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Each number that a field's JSON schema allows, also inside unions and lists."""
    if schema.get("type") in ("integer", "number"):
        yield schema
    for inner in [*schema.get("anyOf", ()), *([schema["items"]] if "items" in schema else [])]:
        yield from _numbers(inner)
