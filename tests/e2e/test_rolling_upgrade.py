"""A rolling upgrade and its rollback: services of the previous release and of this code on one store and one bus.

TEST_PREVIOUS=COMMIT chooses another previous commit.
"""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from deploy.local.ports import free_ports
from deploy.local.workers import running
from millstream import Client
from millstream.defaults import SERVICES
from millstream.training.v1.events_pb2 import TrainingRunCreated
from millstream.training.v1.training_run_pb2 import TrainingRun
from servicekit.bus.port import Message as BusMessage
from servicekit.facts.events import to_message
from tests.contract.old_messages.answers import changes
from tests.contract.old_messages.kinds import strangers
from tests.e2e import scenario
from tests.e2e.invariants import keys
from tests.e2e.rolling import Fleet, NoHistory, Tree, here, previous
from tests.worlds.platform import publish, servers_of, wait_until
from tests.worlds.waiting import FLOW

UPGRADE = ("dataprep", "trainer", "evaluator", "registry", "inference")
ROLLBACK = ("registry", "inference", "trainer", "evaluator", "dataprep")
OLD_SLOT, NEW_SLOT = 0, 1
SLOW: dict[str, Any] = {"model": "slow", "recipe": "toy_words", "preset": "toy", "dataset": scenario.DATASET}
SLOW_CONFIG = {"step_seconds": 0.05, "checkpoint_every": 5, "steps": 30}
KNOWN = to_message(TrainingRunCreated(run_id="a-run", model="toy"), "a-run", "an-event-of-a-later-version", "trainer")
FROM_LATER = BusMessage(
    KNOWN.topic,
    KNOWN.key,
    b"\xc2\x3e\x03abc",
    {**KNOWN.headers, "ce_type": b"millstream.training.v1.TrainingRunPaused"},
)
"""Field 1000 of its topic's oneof: unknown to every version of today."""


@dataclass
class Upgrade:
    """A fleet during an upgrade from one tree to another, with files that are imported meanwhile."""

    fleet: Fleet
    folder: Path
    files: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    seen: dict[str, Any] = field(default_factory=dict)
    """Every immutable fact that any replica has returned so far, as JSON by name."""

    def flow(self) -> None:
        """The next file becomes the next champion on every replica, and all earlier facts are unchanged."""
        number = next(self.files)
        version = scenario.run(self.fleet, scenario.a_file(self.folder, skip=3 * number), number)
        assert version == number
        for choice in (min, max):
            self._compare_facts(
                {service: choice(addresses.split(",")) for service, addresses in self.fleet.addresses.items()}
            )

    def _compare_facts(self, addresses: dict[str, str]) -> None:
        """Read all facts from one replica of each service, and compare them with those seen before."""
        with Client(credentials=self.fleet.credentials, **addresses) as client:
            now = {name: MessageToDict(message) for name, message in unchanging(client)}
        assert self.seen.keys() <= now.keys(), "a fact is missing"
        wrong = [f"{name}: {change}" for name, before in self.seen.items() for change in changes(before, now[name])]
        assert wrong == [], f"these replicas return immutable facts differently: {addresses}"
        self.seen |= now

    def replace(self, service: str, tree: Tree, slot: int, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Start a replica from the tree, then stop the running one."""
        self.fleet.run(tree, slot, service)
        meanwhile()
        self.fleet.end(service, 1 - slot)

    def replace_under_a_run(self, tree: Tree, slot: int, seed: int) -> None:
        """Replace the trainer during a run whose worker then dies: the next attempt resumes from its checkpoint."""
        with self.fleet.client() as client:
            run_id = client.train(SLOW["model"], config={**SLOW_CONFIG, "seed": seed}).run_id
            wait_until(lambda: checkpoints(self.fleet, run_id), f"a checkpoint of the run {run_id}")
            (worker,) = running(self.fleet.workers)
            os.kill(worker, signal.SIGSTOP)  # or it may be faster than a loaded machine replaces a trainer
            self.replace("trainer", tree, slot)
            os.kill(worker, signal.SIGKILL)
        with self.fleet.client() as client:
            run = client.wait_run(run_id, timeout=FLOW)
            assert (run.state, run.attempt, run.lineage.attempts) == (TrainingRun.STATE_SUCCEEDED, 2, 2), run.reason
            printed = b"".join(part.chunk for part in client.run_log(run_id) if part.attempt == 2).decode()
            assert '"message": "resuming"' in printed, f"it began anew:\n{printed}"


def unchanging(client: Client) -> Iterator[tuple[str, Message]]:
    """The immutable facts by name."""
    yield from ((f"snapshot {found.number}", found) for found in client.snapshots(scenario.DATASET))
    for run in client.runs():
        run.ClearField("progress")  # not immutable: workers overwrite it
        yield f"run {run.run_id}", run
    for model in (scenario.MODEL, SLOW["model"]):
        yield from ((f"version {found.version} of {model}", found) for found in client.versions(model))
        yield from ((f"report {found.report_id}", found) for found in client.reports(model))
    yield from ((f"move {found.number}", found) for found in client.alias_history(scenario.MODEL))


def checkpoints(fleet: Fleet, run_id: str) -> list[str]:
    return [key for key in keys(fleet.blobs(), f"checkpoints/{run_id}/") if key.endswith("/manifest")]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    try:
        return previous(tmp_path_factory.mktemp("previous") / "tree")
    except NoHistory as error:
        pytest.skip(f"there is no previous release to run beside this code: {error}")


@pytest.fixture
def upgrade(old: Tree, tmp_path: Path) -> Iterator[Upgrade]:
    """All services old, on Kafka and MinIO where these are installed."""
    settings, store = servers()
    settings = {**settings, **store, "slots": "2"}
    fleet = Fleet(tmp_path / "state", free_ports(2), settings, store=store, old=old)
    try:
        fleet.run(old, OLD_SLOT, *SERVICES)
        yield Upgrade(fleet, tmp_path)
    except BaseException:
        print(fleet.tails())
        raise
    finally:
        fleet.end_all()


def servers() -> tuple[dict[str, str], dict[str, str]]:
    """The settings of TEST_WORLD; without it those of real servers, or of the local world where there are none."""
    if kind := os.environ.get("TEST_WORLD"):
        return servers_of(kind)
    with suppress(pytest.skip.Exception):
        return servers_of("kafka-minio")
    return servers_of("local")


@pytest.mark.timeout(1800)
def test_services_are_replaced_one_by_one_and_back_again(upgrade: Upgrade) -> None:
    fleet = upgrade.fleet
    old, new = fleet.old, here()
    with fleet.client() as client:
        client.apply_model(SLOW)
    upgrade.flow()
    for service in UPGRADE:
        publish(fleet, FROM_LATER)
        if service == "trainer":
            upgrade.replace_under_a_run(new, NEW_SLOT, seed=1)
        else:
            upgrade.replace(service, new, NEW_SLOT, meanwhile=upgrade.flow)
    upgrade.flow()
    for service in ROLLBACK:
        if service == "trainer":
            upgrade.replace_under_a_run(old, OLD_SLOT, seed=2)
            upgrade.flow()
        else:
            upgrade.replace(service, old, OLD_SLOT)
    upgrade.flow()
    check_all(fleet)


def check_all(fleet: Fleet) -> None:
    """No dead letter, no pending or parked fact, no undescribed object; and both trees have trained and evaluated."""
    wait_until(lambda: keys(fleet.blobs(), "outbox") == [], "every fact is published, and none is parked")
    assert strangers(keys(fleet.blobs(), "")) == []
    with fleet.client() as client:
        letters = {service: list(client.dead_letters(service)) for service in SERVICES}
        assert letters == {service: [] for service in SERVICES}
        assert {client.status(service).consumer.problem for service in SERVICES} == {""}
        lineages = [version.lineage for version in client.versions(scenario.MODEL)]
        trained_by = [(lineage.code_commit, lineage.code_dirty) for lineage in lineages]
        judged_by = {(report.code_commit, report.code_dirty) for report in client.reports(scenario.MODEL)}
    assert trained_by[0] == trained_by[-1] == (fleet.old.commit, False)
    assert len(set(trained_by)) > 1 and len(judged_by) > 1, "the newer services trained or evaluated nothing"
