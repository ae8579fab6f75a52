"""The scenario on every kind of bus, with one and with two replicas of each service.

Events are hints: with a bus that delivers nothing the periodic look does it all; with that look switched off the events
do; delivered three times and backwards they change nothing.
"""

from pathlib import Path

import pytest

from tests.e2e import scenario
from tests.worlds.platform import world

NEVER = 3600.0


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize(
    ("bus", "resync_seconds"), [("dropping", 1.0), ("", NEVER), ("duplicating", NEVER), ("duplicating", 1.0)],
    ids=["looks only", "events only", "events thrice backwards", "events thrice backwards, and looks"],
)  # fmt: skip
def test_the_flow_converges(bus: str, resync_seconds: float, replicas: int, tmp_path: Path) -> None:
    with world(tmp_path / "state", replicas=replicas, bus=bus, resync_seconds=resync_seconds) as platform:
        assert scenario.run(platform, scenario.a_file(tmp_path)) == 1
        assert scenario.run(platform, scenario.a_file(tmp_path, skip=20), number=2) == 2
