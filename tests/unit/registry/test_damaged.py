"""A damaged entry of one model's ledgers hurts what it states, and no other model."""

from types import SimpleNamespace

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import DataLoss, FailedPrecondition
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.blobs.memory import MemoryBlobs
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.damage import halved
from tests.worlds.registry import SPEC, Evaluator, Trainer, registry

HURT, WELL = "hurt", "well"


async def two_models(evaluator: Evaluator | None = None) -> SimpleNamespace:
    """Each has two versions; version 1 was promoted by hand, and released."""
    trainer = Trainer(*(f"{model}-{number}" for model in (HURT, WELL) for number in (1, 2)))
    replica = registry(MemoryBlobs(), trainer, evaluator or Evaluator())
    for model in (HURT, WELL):
        await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict({**SPEC, "model": model}, ModelSpec())))
        for number in (1, 2):
            trainer.runs[f"{model}-{number}"].spec.model = model
            await replica.register.reconcile(VersionKey(f"{model}-{number}"))
        request = rpc.PromoteModelVersionRequest(model=model, version=1, override="by hand")
        await replica.service.PromoteModelVersion(request)
        await replica.service.ReleaseAlias(rpc.ReleaseAliasRequest(model=model))
    return registry(replica.store.blobs, trainer, evaluator or Evaluator())


async def test_a_run_whose_request_is_damaged_keeps_no_other_run_from_being_found() -> None:
    """The trainer lists it by its outcome, without its model."""
    replica = await two_models()
    runs = replica.register.trainer.runs
    runs.clear()
    problem = "the stored object runs/requests/b is damaged"
    runs["a"] = TrainingRun(run_id="a", spec=TrainingRunSpec(model=HURT))
    runs["b"] = TrainingRun(run_id="b", reason=problem)
    runs["c"] = TrainingRun(run_id="c", spec=TrainingRunSpec(model=WELL))
    found = [one async for one in replica.register.pending()]
    assert {one.run_id for one in found if isinstance(one, VersionKey)} == {"a", "c"}
    assert [one.text for one in found if isinstance(one, DataLoss)] == [problem]


async def test_a_damaged_spec_is_listed_with_its_key_and_leaves_versions_and_aliases_readable() -> None:
    replica = await two_models()
    key = f"models/{HURT}/spec/0000000001"
    async with halved(replica.store.blobs, key):
        hurt, well = (await replica.service.ListModels(rpc.ListModelsRequest())).models
        assert (hurt.name, hurt.spec.dataset) == (HURT, "") and key in hurt.problem
        assert (well.name, well.spec.dataset, well.problem) == (WELL, "words", "")
        with pytest.raises(DataLoss, match=key):
            await replica.service.GetModel(rpc.GetModelRequest(model=HURT))
        with pytest.raises(DataLoss, match=key):
            await replica.service.ApplyModel(
                rpc.ApplyModelRequest(spec=ParseDict({**SPEC, "model": HURT}, ModelSpec()))
            )
        assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=HURT))).entry.version == 1
        version = rpc.GetModelVersionRequest(model=HURT, version=2)
        assert (await replica.service.GetModelVersion(version)).model_version.run_id == f"{HURT}-2"
        found = [one async for one in replica.promote.pending()]
        assert isinstance(found[0], DataLoss) and found[1:] == [PromotionKey(WELL)], "the resync goes on"
    hurt, _ = (await replica.service.ListModels(rpc.ListModelsRequest())).models
    assert (hurt.spec.dataset, hurt.problem) == ("words", "")


async def test_a_damaged_version_is_listed_by_number_and_hurts_no_other_version() -> None:
    replica = await two_models()
    key = f"models/{HURT}/versions/0000000001"
    async with halved(replica.store.blobs, key):
        listed = (await replica.service.ListModelVersions(rpc.ListModelVersionsRequest(model=HURT))).model_versions
        assert [(one.version, one.run_id) for one in listed] == [(2, f"{HURT}-2"), (1, "")]
        assert key in listed[1].problem and not listed[0].problem
        with pytest.raises(DataLoss, match=key):
            await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model=HURT, alias="champion"))
        assert await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model=HURT, version=2))
        replica.register.trainer.runs[f"{WELL}-3"] = TrainingRun(run_id=f"{WELL}-3", state=TrainingRun.STATE_SUCCEEDED)
        replica.register.trainer.runs[f"{WELL}-3"].spec.model = WELL
        found = [one async for one in replica.register.pending()]
        assert VersionKey(f"{WELL}-3") in found
        assert all(key in str(one) for one in found if isinstance(one, DataLoss))
    listed = (await replica.service.ListModelVersions(rpc.ListModelVersionsRequest(model=HURT))).model_versions
    assert [one.run_id for one in listed] == [f"{HURT}-2", f"{HURT}-1"]
    assert [one async for one in replica.register.pending()] == [VersionKey(f"{WELL}-3")]


async def test_a_damaged_move_is_listed_by_number_and_the_newest_one_still_holds() -> None:
    replica = await two_models()
    key = f"models/{HURT}/aliases/champion/0000000001"
    async with halved(replica.store.blobs, key):
        request = rpc.ListAliasEntriesRequest(model=HURT)
        released, damaged = (await replica.service.ListAliasEntries(request)).entries
        assert released.action == AliasEntry.ACTION_RELEASED
        assert (damaged.number, damaged.version, damaged.alias) == (1, 0, "champion") and key in damaged.problem
        assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=HURT))).entry.number == 2
        with pytest.raises(DataLoss, match=key):
            await replica.promote.reconcile(PromotionKey(HURT))
    assert (await replica.service.ListAliasEntries(request)).entries[1].version == 1


async def test_a_damaged_newest_move_is_shown_with_its_model() -> None:
    replica = await two_models()
    key = f"models/{HURT}/aliases/champion/0000000002"
    async with halved(replica.store.blobs, key):
        shown = (await replica.service.GetModel(rpc.GetModelRequest(model=HURT))).model
        hurt, well = (await replica.service.ListModels(rpc.ListModelsRequest())).models
        for model in (shown, hurt):
            (champion,) = model.aliases
            assert (model.problem, champion.number, champion.version) == ("", 2, 0) and key in champion.problem
        assert [(entry.version, entry.problem) for entry in well.aliases] == [(1, "")]


async def test_a_damaged_newest_move_is_an_error_of_its_alias() -> None:
    replica = await two_models()
    key = f"models/{HURT}/aliases/champion/0000000002"
    async with halved(replica.store.blobs, key):
        with pytest.raises(DataLoss, match=key):
            await replica.service.GetAlias(rpc.GetAliasRequest(model=HURT))
        assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=WELL))).entry.version == 1
    assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=HURT))).entry.version == 1


async def test_a_version_with_a_damaged_report_waits_until_that_is_restored() -> None:
    evaluator = Evaluator()
    replica = await two_models(evaluator)
    evaluator.passes(2, champion=1, accuracy=0.99)
    damaged = EvaluationReport(report_id="damaged", model=WELL, version=2, error="reports/a/b is damaged")
    evaluator.reports.append(damaged)
    await replica.promote.reconcile(PromotionKey(WELL))
    with pytest.raises(FailedPrecondition, match="reports/a/b is damaged"):
        await replica.service.PromoteModelVersion(rpc.PromoteModelVersionRequest(model=WELL, version=2))
    assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=WELL))).entry.version == 1
    evaluator.reports.remove(damaged)
    await replica.promote.reconcile(PromotionKey(WELL))
    assert (await replica.service.GetAlias(rpc.GetAliasRequest(model=WELL))).entry.version == 2


async def test_a_promotion_that_passes_over_a_damaged_report_is_looked_at_again() -> None:
    """Once the report is restored no event says so."""
    replica = await two_models(evaluator := Evaluator())
    damaged = EvaluationReport(report_id=f"{WELL}.2.0", model=WELL, version=2, error="the report is damaged")
    evaluator.reports.append(damaged)
    assert await replica.promote.reconcile(PromotionKey(WELL)) == 30
    evaluator.reports.remove(damaged)
    assert await replica.promote.reconcile(PromotionKey(WELL)) is None
