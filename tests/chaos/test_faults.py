"""Every kind of fault once, three a run, in the world of TEST_WORLD. `python -m bench.chaos` runs many seeds."""

import json
import os
from collections.abc import Iterator

import pytest
from _pytest.mark import ParameterSet

from tests.chaos.plan import Plan, covering
from tests.chaos.runner import Runner
from tests.chaos.target import can_mount
from tests.worlds.platform import chosen

SEED = int(os.environ.get("TEST_CHAOS_SEED") or 1)
OUTAGE_SECONDS = 10.0
"""Long enough for every client to give up; bench.chaos uses the full length."""
PLANS = covering(SEED, os.environ.get("TEST_WORLD") or "local", OUTAGE_SECONDS)
FULL_DISK = pytest.mark.skipif(not can_mount(), reason="mounting a small file system needs root")


def case(plan: Plan) -> ParameterSet:
    kinds = [aim.kind for aim in plan.aims]
    return pytest.param(
        plan, id=f"{', '.join(kinds)} ({plan.replicas} each)", marks=FULL_DISK if "disk full" in kinds else ()
    )


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(chosen(), tmp_path_factory.mktemp("chaos"))
    yield made
    made.end()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("plan", [case(plan) for plan in PLANS])
def test_nothing_is_lost_doubled_or_stuck(plan: Plan, runner: Runner) -> None:
    record = runner.perform(plan)
    for hit in record.hits:
        print(
            f"seed {plan.seed}: {hit.kind} at {hit.stage} after {hit.after}, {hit.at:.1f} s; events after {hit.events} s"
        )
    assert record.good, f"logs and objects are in {runner.folder}: {json.dumps(record.to_dict())}"
