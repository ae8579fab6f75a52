"""One input, or one neighbour, stops nobody: no well-behaved call fails beside any attacker, and memory comes back.

How much longer a call takes is measured by bench.neighbours.
"""

from pathlib import Path

import pytest

from bench.neighbours.harness import phases
from tests.worlds.platform import chosen


@pytest.mark.timeout(1200)
def test_well_behaved_callers_feel_no_attacker(tmp_path: Path) -> None:
    problems: list[str] = []
    for felt in phases(tmp_path, chosen(), seconds=4.0):
        assert all(found["calls"] for found in felt.figures["services"].values()), f"{felt.name}: nobody called"
        problems += felt.problems()
    assert not problems, "\n".join(problems)
