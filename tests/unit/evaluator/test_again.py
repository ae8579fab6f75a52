"""Someone asks for another report on a version: it is made, it is another object, and it is the one that counts."""

from pathlib import Path

import pytest

from millstream.errors import DataLoss, InvalidArgument, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import EvaluateModelVersionRequest
from millstream.registry.v1.model_pb2 import GateRule
from services.evaluator import attempts
from services.evaluator.due import newest_of
from services.evaluator.reconcile import EvaluationKey
from tests.worlds.evaluator import MODEL, Replica, World, trained, troubled
from tests.worlds.waiting import until

PASSED, FAILED, ERROR = EvaluationReport.STATUS_PASSED, EvaluationReport.STATUS_FAILED, EvaluationReport.STATUS_ERROR


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ask(replica: Replica, version: int = 1, request_id: str = "", reason: str = "", model: str = MODEL) -> int:
    request = EvaluateModelVersionRequest(model=model, version=version, request_id=request_id, reason=reason)
    return (await replica.service.EvaluateModelVersion(request)).request_number


async def pending(replica: Replica) -> list[EvaluationKey | DataLoss]:
    return [key async for key in replica.evaluate.pending()]


async def test_a_trouble_has_passed_and_another_report_takes_the_place_of_the_error(
    world: World, tmp_path: Path
) -> None:
    while_there = tmp_path / "trouble"
    while_there.touch()
    await world.version(troubled(tmp_path, "bug", only_while=while_there))
    replica = world.replica()

    async def has(status: EvaluationReport.Status.ValueType) -> bool:
        reports = await replica.store.reports(MODEL)
        return bool(reports) and newest_of(reports).status == status

    async with replica.running():
        await until(lambda: has(ERROR))
        while_there.unlink()
        assert await ask(replica, reason="the disk is mended") == 1
        await until(lambda: has(PASSED))
    first, second = sorted(await replica.store.reports(MODEL), key=lambda report: report.request_number)
    assert (first.status, first.request_number) == (ERROR, 0)
    assert (second.status, second.request_number) == (PASSED, 1)
    assert first.report_id != second.report_id
    assert (first.snapshot_id, first.champion_version) == (second.snapshot_id, second.champion_version)
    (entry,) = await replica.store.requests(MODEL, 1).entries()
    assert (entry.message.reason, entry.actor) == ("the disk is mended", "local")
    assert await pending(replica) == []


async def test_a_report_that_passed_is_followed_by_one_that_failed_and_that_one_counts(world: World) -> None:
    """A stricter gate came between. A third is made once another version is champion."""
    await world.version(trained(steps=1))
    await world.version()
    replica = world.replica()
    assert (await replica.report(2)).status == PASSED
    world.declare(MODEL, [GateRule(metric="accuracy", at_least=1.1)])
    await ask(replica, 2)
    newest = await replica.report(2)
    assert (newest.status, newest.request_number) == (FAILED, 1)
    assert len(await replica.store.reports(MODEL, 2)) == 2
    assert EvaluationKey(MODEL, 2) not in await pending(replica)
    world.champion(1)
    assert EvaluationKey(MODEL, 2) in await pending(replica)


async def test_another_replica_finds_the_request_by_its_resync(world: World) -> None:
    await world.version()
    asked, other = world.replica(), world.replica(cache="other")
    await asked.report()
    assert await pending(other) == []
    await ask(asked)
    assert await pending(other) == [EvaluationKey(MODEL, 1)]
    assert (await other.report()).request_number == 1
    assert await pending(asked) == []


async def test_a_request_sent_again_is_the_same_request_and_two_are_answered_by_one_report(world: World) -> None:
    await world.version()
    replica = world.replica()
    assert [await ask(replica, request_id=name) for name in ("a", "a", "b", "a", "b")] == [1, 1, 2, 1, 2]
    with pytest.raises(InvalidArgument, match="used before"):
        await ask(replica, request_id="a", reason="another")
    assert (await replica.report()).request_number == 2
    assert len(await replica.store.reports(MODEL)) == 1


async def test_a_requested_report_has_attempts_of_its_own(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine in trouble rests, but not from what an operator asks for."""
    while_there = tmp_path / "trouble"
    while_there.touch()
    await world.version(troubled(tmp_path, "memory", only_while=while_there))
    replica = world.replica()
    with pytest.raises(Exception, match="no memory"):
        await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
    assert await replica.evaluate.reconcile(EvaluationKey(MODEL, 1)) is not None
    while_there.unlink()
    await ask(replica)
    assert await replica.evaluate.reconcile(EvaluationKey(MODEL, 1)) is None
    assert [report.status for report in await replica.store.reports(MODEL)] == [PASSED]
    assert attempts.FIRST_REST_SECONDS > 0


async def test_a_request_that_cannot_be_answered_is_refused(world: World) -> None:
    await world.version()
    replica = world.replica()
    with pytest.raises(NotFound):
        await ask(replica, 7)
    with pytest.raises(InvalidArgument) as refused:
        await ask(replica, reason="x" * 2001)
    assert refused.value.field == "reason"
    with pytest.raises(InvalidArgument) as refused:
        await ask(replica, model="../x")
    assert refused.value.field == "model"
    assert await ask(replica, reason="x" * 2000) == 1
