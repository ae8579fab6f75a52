"""A process is killed at every failpoint, that is, between every two durable writes, and the flow ends all the same.

The failpoints are found in the source, so a new one is tested without being listed.
"""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import ModelVersion
from servicekit.bus.port import Message
from tests.chaos.scenario import Flow
from tests.chaos.stages import REFUSING, REPLAYED, reached_by_flow
from tests.e2e import invariants, scenario
from tests.worlds.platform import World, publish, wait_until, world

REPLICAS = [1, 2] if os.environ.get("TEST_WORLD", "local") == "local" else [1]
"""Two replicas only in the cheapest world: the failpoints are the same in all."""


@pytest.fixture(scope="module", params=REPLICAS, ids="{} each".format)
def platform(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    armed = tmp_path_factory.mktemp("failpoints")
    environment = {"TEST_FAILPOINTS": str(armed)}
    state = tmp_path_factory.mktemp("state")
    with world(state, replicas=request.param, resync_seconds=2, environment=environment) as platform:
        yield platform


def arm(platform: World, name: str) -> Path:
    """Kill the next process that reaches the failpoint. The file that is returned is gone once that has happened."""
    armed = Path(platform.environment["TEST_FAILPOINTS"]) / name
    armed.touch()
    return armed


@pytest.mark.parametrize("name", reached_by_flow())
def test_killed_there_the_flow_ends_with_one_of_each(platform: World, name: str, tmp_path: Path) -> None:
    armed = arm(platform, name)
    flow = Flow(platform, f"x-{re.sub(r'[^a-z]+', '-', name)}")
    flow.run(scenario.a_file(tmp_path))
    assert not armed.exists(), f"the scenario did not reach the failpoint {name}"


def test_killed_while_refusing_a_damaged_version_the_old_one_serves(platform: World, tmp_path: Path) -> None:
    flow = Flow(platform, "x-refusing")
    flow.run(scenario.a_file(tmp_path))
    with platform.client() as client:
        manual = {**flow.spec(), "promotion": {"automatic": False}, "config": {"seed": 7}}
        flow.persist(lambda: client.apply_model(manual))
        report = flow.until("a report on version 2", lambda: next(iter(client.reports(flow.name, 2)), None))
        assert report.status == EvaluationReport.STATUS_PASSED
        damage(platform, next(v for v in client.versions(flow.name) if v.version == 2))
        armed = arm(platform, REFUSING)
        flow.persist(lambda: client.promote(flow.name, 2, request_id="promote-damaged"))
        refused = f"refusals/{flow.name}/"
        flow.until("the refusal", lambda: f"{refused}{2:010d}/refusal" in invariants.keys(platform.blobs(), refused))
        wait_until(lambda: not armed.exists(), "the kill")
        served = flow.until("an answer", lambda: client.classify(flow.name, ["kind"]).served.version)
        assert served == 1, "the version before is still served, also by a restarted process"


def test_killed_while_replaying_a_dead_letter_it_can_be_replayed_again(platform: World) -> None:
    publish(platform, Message("millstream.dataset.v1", "words", b"\xff", {}))
    with platform.client() as client:
        flow = Flow(platform, "x-replaying")
        letter = flow.until("a dead letter", lambda: next(iter(client.dead_letters("trainer")), None))
        armed = arm(platform, REPLAYED)
        # The client retries when its service dies.
        flow.persist(lambda: client.replay_dead_letter("trainer", letter.id))
        assert not armed.exists()
        flow.until("what was replayed twice", lambda: len(list(client.dead_letters("trainer"))) == 2)
        assert letter.id not in [found.id for found in client.dead_letters("trainer")]
        for found in list(client.dead_letters("trainer")):
            flow.persist(lambda found=found: client.drop_dead_letter("trainer", found.id, "a test"))  # type: ignore[misc]


def damage(platform: World, version: ModelVersion) -> None:
    """Cut the stored weights short, as a broken disk would."""

    async def cut() -> None:
        blobs, key = platform.blobs(), f"artifacts/{version.artifact.digest}/files/model.json"
        await blobs.put(key, (await blobs.get(key))[:-10])

    asyncio.run(cut())
