"""The scenario on every kind of bus, with one and with two replicas of each service.

Events are hints: with a bus that drops every event the periodic resync does all work; without a resync the events do;
duplicated and reordered events change nothing. Only inference, each replica of which serves for itself, has no marker of
open work: a bus that drops its events without an error needs comparisons in full.
"""

from pathlib import Path

import pytest

from tests.e2e import scenario
from tests.worlds.platform import world

NEVER = 3600.0


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("bus", "resync_seconds"), [("dropping", 1.0), ("", NEVER), ("duplicating", NEVER), ("duplicating", 1.0)],
    ids=["resync only", "events only", "events duplicated", "events duplicated, and resync"],
)  # fmt: skip
def test_the_flow_converges(bus: str, resync_seconds: float, replicas: int, tmp_path: Path) -> None:
    full = resync_seconds if bus == "dropping" else NEVER
    state = tmp_path / "state"
    with world(state, replicas=replicas, bus=bus, resync_seconds=resync_seconds, full_resync_seconds=full) as platform:
        assert scenario.run(platform, scenario.a_file(tmp_path)) == 1
        assert scenario.run(platform, scenario.a_file(tmp_path, skip=20), number=2) == 2
