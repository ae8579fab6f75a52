"""From files to predictions, in one platform: in the world of TEST_WORLD, or else in every one.

The modes of bus and replicas are in tests/chaos/test_modes.py.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import scenario
from tests.worlds.platform import WORLDS, World, wait_until, world
from tests.worlds.waiting import FLOW


@pytest.fixture(scope="module", params=[os.environ["TEST_WORLD"]] if os.environ.get("TEST_WORLD") else WORLDS)
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("platform"), kind=request.param) as platform:
        yield platform


def test_a_file_becomes_a_prediction(platform: World, tmp_path: Path) -> None:
    assert scenario.run(platform, scenario.a_file(tmp_path)) == 1


def test_the_next_file_becomes_the_next_version(platform: World, tmp_path: Path) -> None:
    assert scenario.run(platform, scenario.a_file(tmp_path, skip=20), number=2) == 2


def test_a_service_that_dies_is_restarted(platform: World) -> None:
    (pid,) = platform.pids("inference")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: platform.pids("inference") not in ([], [pid]), "another inference")
    with platform.client() as client:
        assert client.wait_served(scenario.MODEL, 2, timeout=FLOW).served.version == 2
    assert "inference-0 was killed by SIGKILL" in platform.tails()


def test_everything_is_there_after_a_restart(platform: World) -> None:
    assert platform.stop() == 0
    platform.start()
    with platform.client() as client:
        assert client.wait_served(scenario.MODEL, 2, timeout=FLOW).served.version == 2
        assert client.classify(scenario.MODEL, ["cold and dull"]).classifications[0].label == "bad"
        assert len(list(client.runs(scenario.MODEL))) == 2
