"""Attempts fail, die and race, between any two writes: each version still has one report."""

import asyncio
import json
from pathlib import Path

import pytest

from millstream.errors import MillstreamError, Unavailable
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import GetEvaluationReportPageRequest
from millstream.operations.v1.stored_pb2 import Claim, Process
from millstream.registry.v1.model_pb2 import ModelVersion
from servicekit.blobs.memory import MemoryBlobs
from servicekit.processes import this_process
from services.evaluator import attempts
from services.evaluator.measure import Figures
from services.evaluator.reconcile import EvaluationKey
from services.evaluator.store import folder_of, report_id_of
from tests.worlds.evaluator import MODEL, Replica, World, copied, trained
from tests.worlds.waiting import until

PASSED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_ERROR
NAME = EvaluationKey(MODEL, 1)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def attempts_of(version: ModelVersion) -> str:
    return f"{folder_of(report_id_of(MODEL, version.version, version.lineage.snapshot_id, 0))}/attempts"


def dead_process() -> Process:
    dead = Process()
    dead.CopyFrom(this_process())
    dead.start_time -= 1
    return dead


async def claim(world: World, version: ModelVersion, number: int, process: Process) -> None:
    data = Claim(number=number, process=process).SerializeToString()
    assert await world.blobs.put_if_absent(f"{attempts_of(version)}/{number:010d}/claim", data)


async def ends(world: World, version: ModelVersion) -> list[AttemptEnd]:
    keys = [listed.key async for listed in world.blobs.list(attempts_of(version)) if listed.key.endswith("/end")]
    return [AttemptEnd.FromString(await world.blobs.get(key)) for key in keys]


async def test_two_dead_attempts_are_followed_by_a_third(world: World) -> None:
    version = await world.version()
    for number in (1, 2):
        await claim(world, version, number, dead_process())
    assert (await world.replica().report()).status == PASSED


async def test_three_dead_attempts_end_in_an_error(world: World) -> None:
    version = await world.version()
    for number in (1, 2, 3):
        await claim(world, version, number, dead_process())
    report = await world.replica().report()
    assert report.status == ERROR
    assert report.error == (
        "given up after 3 failed attempts: 1. its evaluator died; 2. its evaluator died; 3. its evaluator died"
    )
    assert report.lineage.run_id == "run-1"


async def test_a_living_holder_is_waited_for_until_its_lease_ends(world: World) -> None:
    """The holder is on another host, so only its heartbeat counts."""
    version = await world.version()
    await claim(world, version, 1, Process(host="elsewhere", boot_id="b", pid=1))
    replica = world.replica(lease_seconds=0.05)
    assert await replica.evaluate.reconcile(NAME) == 0.5
    await asyncio.sleep(0.06)
    assert (await replica.report()).status == PASSED
    assert [listed.key async for listed in world.blobs.list(attempts_of(version)) if "0000000002/claim" in listed.key]


async def test_a_claim_of_this_process_that_is_not_in_progress_neither_blocks_nor_counts(world: World) -> None:
    """The put of a claim may have happened although it raised."""
    version = await world.version()
    for number in range(1, 5):
        await claim(world, version, number, this_process())
    assert (await world.replica().report()).status == PASSED


async def test_an_attempt_that_ends_between_two_reads_is_not_dead(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica that is stopped stores the end and is gone between two reads of another."""
    version = await world.version()
    await claim(world, version, 1, Process(host="elsewhere", boot_id="b", pid=1))
    mine = attempts.Attempts(world.blobs, report_id_of(MODEL, 1, version.lineage.snapshot_id, 0), 10)

    async def ends_now(number: int) -> bool:
        await mine.end(number, "stopped", counts=False)
        return False

    monkeypatch.setattr(mine.leases, "is_alive", ends_now)
    assert await mine.status() == attempts.AttemptStatus(1, in_progress=False, failures=())


async def test_a_bug_ends_in_an_error_after_three_attempts(world: World, tmp_path: Path) -> None:
    broken = copied(trained(), tmp_path / "broken")
    (broken / "model.json").write_text("{}")
    version = await world.version(broken)
    replica = world.replica()
    async with replica.running():
        await until(lambda: exists(replica))
    (report,) = await replica.store.reports(MODEL)
    assert report.status == ERROR
    assert "labels" in report.error
    assert [end.counts for end in await ends(world, version)] == [True] * 3


async def test_attempts_that_failed_in_other_replicas_count(world: World) -> None:
    """Three replicas had a bug each and were restarted since: no process remembers three."""
    version = await world.version()
    replica = world.replica()
    for number in (1, 2, 3):
        await claim(world, version, number, dead_process())
        end = AttemptEnd(reason=f"ValueError: {number}", counts=True)
        await world.blobs.put(f"{attempts_of(version)}/{number:010d}/end", end.SerializeToString())
    assert (await replica.report()).error.endswith("3. ValueError: 3")


async def test_sigterm_and_a_store_that_is_away_do_not_count(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt is recorded, but says nothing against the version."""
    version = await world.version()
    replica = world.replica()

    async def down(inputs: object) -> EvaluationReport:
        raise Unavailable("the store is down")

    async def long(inputs: object) -> EvaluationReport:
        await asyncio.sleep(60)
        raise AssertionError

    for _ in range(2):
        monkeypatch.setattr(replica.evaluate.evaluator, "evaluate", down)
        with pytest.raises(Unavailable):
            await replica.evaluate.reconcile(NAME)
        monkeypatch.setattr(replica.evaluate.evaluator, "evaluate", long)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(replica.evaluate.reconcile(NAME), 0.02)
    assert [end.counts for end in await ends(world, version)] == [False] * 4
    monkeypatch.undo()
    assert (await replica.report()).status == PASSED


async def test_a_service_that_is_down_leaves_no_claim(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    version = await world.version()

    async def down(request: object) -> object:
        raise Unavailable("dataprep does not answer")

    monkeypatch.setattr(world.dataprep, "GetSnapshot", down)
    with pytest.raises(Unavailable):
        await world.replica().evaluate.reconcile(NAME)
    assert not [listed async for listed in world.blobs.list(attempts_of(version))]


async def test_two_evaluators_at_once_make_one_report(world: World) -> None:
    await world.version()
    await world.version(trained(steps=1))
    replicas = [world.replica(cache=f"cache-{number}") for number in range(2)]
    await asyncio.gather(*(replica.report(version) for replica in replicas for version in (1, 2)))
    stored = [listed.key async for listed in world.blobs.list("reports/") if listed.key.endswith("/report")]
    assert len(stored) == 2
    first, second = [await replica.store.reports(MODEL) for replica in replicas]
    assert first == second
    for report in first:
        page = (await world.blobs.get(f"{folder_of(report.report_id)}/report.html")).decode()
        assert page == (await replicas[0].service.GetEvaluationReportPage(page_of(report))).html


async def test_the_pages_are_those_of_the_report_that_was_first(world: World) -> None:
    await world.version()
    one, two = world.replica(), world.replica()
    first = await one.report()
    late = EvaluationReport()
    late.CopyFrom(first)
    late.status, late.error = ERROR, "given up"
    assert await two.store.put(late) == first
    assert b"given up" not in await world.blobs.get(f"{folder_of(first.report_id)}/report.html")
    assert json.loads(await world.blobs.get(f"{folder_of(first.report_id)}/report.json"))["status"] == "STATUS_PASSED"


class Failing(MemoryBlobs):
    """The n-th write raises, before or after it happened."""

    def __init__(self, at: int, happened: bool) -> None:
        super().__init__()
        self.at, self.happened, self.writes, self.armed = at, happened, 0, False

    def _fails(self, key: str) -> bool:
        if not self.armed or key.endswith("/heartbeat"):
            return False
        self.writes += 1
        return self.writes == self.at

    async def put(self, key: str, data: bytes) -> None:
        fails = self._fails(key)
        if not fails or self.happened:
            await super().put(key, data)
        if fails:
            raise Unavailable(f"write {self.at} failed")

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        fails = self._fails(key)
        made = await super().put_if_absent(key, data) if not fails or self.happened else False
        if fails:
            raise Unavailable(f"write {self.at} failed")
        return made


@pytest.mark.parametrize("happened", [False, True])
@pytest.mark.parametrize("at", range(1, 7))
async def test_a_failure_at_each_write_still_gives_one_report(tmp_path: Path, at: int, happened: bool) -> None:
    world = World(tmp_path)
    blobs = world.blobs = Failing(at, happened)
    version = await world.version()
    blobs.armed = True
    replica = world.replica()
    with pytest.raises(MillstreamError):
        await replica.report()
    report = await world.replica().report()
    assert report.status == PASSED
    await replica.outbox.sweep()
    await replica.outbox.flush()
    stored = [listed.key async for listed in blobs.list("reports/") if listed.key.endswith("/report")]
    assert stored == [f"{folder_of(report.report_id)}/report"]
    assert not [end for end in await ends(world, version) if end.counts]


async def test_there_are_six_writes_to_fail_at(tmp_path: Path) -> None:
    """Claim, page, JSON, markers of the outbox and of the registry's work, report."""
    world = World(tmp_path)
    world.blobs = Failing(0, False)
    await world.version()
    world.blobs.armed = True
    await world.replica().report()
    assert world.blobs.writes == 6


def page_of(report: EvaluationReport) -> GetEvaluationReportPageRequest:
    return GetEvaluationReportPageRequest(report_id=report.report_id)


async def exists(replica: Replica) -> bool:
    return bool(await replica.store.reports(MODEL))


async def test_one_evaluation_runs_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await world.version()
    replica = world.replica()
    running, most = 0, 0
    original = replica.evaluate.evaluator._figures

    async def counted(inputs: object) -> Figures:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        figures = await original(inputs)  # type: ignore[arg-type]
        running -= 1
        return figures

    monkeypatch.setattr(replica.evaluate.evaluator, "_figures", counted)
    await asyncio.gather(*(replica.report(version) for version in (1, 2, 3)))
    assert most == 1


async def test_an_evaluation_leaves_the_artifacts_used_last_in_the_cache(world: World) -> None:
    replica = world.replica()
    for steps in (1, 2, 3):
        await world.version(trained(steps=steps))
    replica.evaluate.evaluator.keep_artifacts = 2
    for version in (1, 2, 3):
        await replica.report(version)
    kept = {path.name for path in replica.evaluate.evaluator.cache.folder.glob("[!.]*")}
    assert kept == {version.artifact.digest for version in world.registry.made[1:]}


def test_a_report_is_given_up_after_three_failures() -> None:
    assert attempts.MOST_FAILURES == 3
