"""The failpoints that tests/chaos finds in the source: their number, names, stages, and tests of those off the flow."""

import ast
from collections import Counter

from tests.chaos.stages import ELSEWHERE, STAGES, calls, failpoints, reached_by_flow, stage_of
from tests.worlds.platform import ROOT

NUMBER = 54
"""Change it with a failpoint that is added or removed on purpose: a lower number may mean that some are not found."""


def test_so_many_failpoints_are_found_each_name_once() -> None:
    assert [name for name, count in Counter(calls()).items() if count > 1] == [], "each call has a name of its own"
    found = failpoints()
    assert len(found) == len(set(found)) == NUMBER
    assert {"outbox.models-aliases.stored", "worker.claimed", "dataprep.part-stored"} <= set(found)


def test_each_stage_has_failpoints_and_each_failpoint_a_stage() -> None:
    assert {stage_of(name) for name in reached_by_flow()} == set(STAGES)


def test_every_call_in_the_source_is_found() -> None:
    """Each call of failpoint() by Python's parser: its name must stand in the call, where a search by text sees it."""
    count = 0
    for file in [*(ROOT / "services").rglob("*.py"), *(ROOT / "servicekit").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "failpoint":
                count += 1
    assert count == len(calls())


def test_each_failpoint_off_the_flow_names_a_test_that_exists() -> None:
    assert set(ELSEWHERE) <= set(failpoints())
    for place in ELSEWHERE.values():
        file, _, name = place.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        assert name in {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
