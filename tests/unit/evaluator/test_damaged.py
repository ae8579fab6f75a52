"""A damaged report, or damaged objects of one model, keep no other model and no other version from its report."""

from pathlib import Path
from typing import Any

import pytest

from millstream.errors import DataLoss
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import GetEvaluationReportRequest, ListEvaluationReportsRequest
from millstream.registry.v1 import registry_service_pb2 as registry_rpc
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.training.v1.training_run_pb2 import Artifact
from services.evaluator.reconcile import ChallengersKey, EvaluationKey
from services.evaluator.store import folder_of
from tests.worlds.damage import halved
from tests.worlds.evaluator import MODEL, World, trained

OTHER = "other"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_a_damaged_report_is_listed_by_its_id_and_its_version_waits_for_it(world: World) -> None:
    world.declare(OTHER)
    await world.version()
    await world.version(model=OTHER)
    report = await world.replica().report()
    await world.version(trained(steps=20))
    key = f"{folder_of(report.report_id)}/report"
    replica = world.replica()
    async with halved(world.blobs, key, EvaluationReport):
        (listed,) = (await replica.service.ListEvaluationReports(ListEvaluationReportsRequest(model=MODEL))).reports
        assert (listed.report_id, listed.model, listed.version) == (report.report_id, MODEL, 1)
        assert listed.status == EvaluationReport.STATUS_UNSPECIFIED and key in listed.error
        with pytest.raises(DataLoss, match=key):
            await replica.service.GetEvaluationReport(GetEvaluationReportRequest(report_id=report.report_id))
        found = [one async for one in replica.evaluate.pending()]
        assert [one for one in found if not isinstance(one, DataLoss)] == [
            EvaluationKey(MODEL, 2),
            EvaluationKey(OTHER, 1),
        ]
        assert [key in str(one) for one in found if isinstance(one, DataLoss)] == [True]
        with pytest.raises(DataLoss, match=key):
            await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
        assert (await replica.report(1, OTHER)).metrics
        assert (await replica.report(2)).metrics
    reports = (
        await replica.service.ListEvaluationReports(ListEvaluationReportsRequest(model=MODEL, version=1))
    ).reports
    assert list(reports) == [report]
    assert [one async for one in replica.evaluate.pending()] == []


async def test_a_model_whose_champion_cannot_be_read_waits_and_others_are_evaluated(world: World) -> None:
    world.declare(OTHER)
    await world.version()
    await world.version(model=OTHER)
    world.registry.moves.append(AliasEntry(model=MODEL, alias="champion", number=1, problem="an entry is damaged"))
    replica = world.replica()
    found = [one async for one in replica.evaluate.pending()]
    assert isinstance(found[0], DataLoss) and found[1:] == [EvaluationKey(OTHER, 1)]
    with pytest.raises(DataLoss, match="an entry is damaged"):
        await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
    world.registry.moves.clear()
    assert (await replica.report()).metrics


async def test_a_damaged_version_and_a_damaged_spec_are_passed_over(world: World) -> None:
    await world.version()
    world.registry.made.insert(0, ModelVersion(model=MODEL, version=7, problem="a version is damaged"))
    world.registry.models["damaged"] = Model(name="damaged", problem="a spec is damaged")

    async def damaged(request: Any) -> Any:
        if request.model == "damaged":
            raise DataLoss("a spec is damaged")
        return registry_rpc.ListAliasEntriesResponse()

    world.registry.ListAliasEntries = damaged  # type: ignore[method-assign]
    found = [one async for one in world.replica().evaluate.pending()]
    assert found[0] == EvaluationKey(MODEL, 1)
    assert [str(one) for one in found[1:]] == ["a version is damaged", "a spec is damaged"]


async def test_a_damaged_manifest_costs_no_attempt_and_the_report_follows_its_restoration(world: World) -> None:
    version = await world.version()
    replica = world.replica()
    async with halved(world.blobs, f"artifacts/{version.artifact.digest}/manifest", Artifact):
        with pytest.raises(DataLoss, match="manifest is damaged"):
            await replica.evaluate.reconcile(EvaluationKey(MODEL, 1))
        assert [listed.key async for listed in world.blobs.list("reports/")] == []
    assert (await replica.report()).metrics


async def test_a_change_of_champion_stays_open_while_a_report_on_a_challenger_is_damaged(world: World) -> None:
    await world.version()
    replica = world.replica()
    report = await replica.report()
    assert await replica.find.reconcile(ChallengersKey(MODEL)) is None
    async with halved(world.blobs, f"{folder_of(report.report_id)}/report", EvaluationReport):
        assert await world.replica().find.reconcile(ChallengersKey(MODEL)) == 30
