"""RegistryService and its reconcilers on a store in memory."""

import asyncio
import gc
import weakref
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from google.protobuf.timestamp_pb2 import Timestamp

from millstream import errors
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec
from servicekit.blobs.memory import MemoryBlobs
from services.evaluator.due import champion_of, is_pending
from services.registry import store
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.registry import SPEC, Evaluator, SlowEvaluator, Trainer, applied, entries, registered, registry


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"model": "Toy!"}, "spec.model"),
        ({"dataset": ""}, "spec.dataset"),
        ({"recipe": "os.path"}, "spec.recipe"),
        ({"preset": "huge"}, "spec.preset"),
        ({"config": {"no_such_field": 1}}, "spec.config.no_such_field"),
        ({"config": {"steps": -1}}, "spec.config.steps"),
        ({"gate": [{"metric": "beauty", "at_least": 1}]}, "spec.gate[0].metric"),
        ({"serving": {"aliases": ["../x"]}}, "spec.serving.aliases[0]"),
        ({"training": {"time_limit": "0s"}}, "spec.training.time_limit"),
        ({"training": {"resources": {"nodes": 2}}}, "spec.training.resources.nodes"),
    ],
)
async def test_a_wrong_spec_is_refused_naming_the_field(change: dict[str, object], field: str) -> None:
    replica = registry(MemoryBlobs(), Trainer(), Evaluator())
    with pytest.raises(errors.InvalidArgument) as refusal:
        await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict({**SPEC, **change}, ModelSpec())))
    assert refusal.value.field == field
    assert not (await replica.service.ListModels(rpc.ListModelsRequest())).models, "a refused spec must leave nothing"


@pytest.mark.parametrize("etag", ["²", "-1", "1.0", "1e3", "x" * 1000, "99999999999"])
async def test_an_etag_that_is_no_number_of_an_entry_is_refused_by_its_field(etag: str) -> None:
    replica = await registered(1, Evaluator())
    spec = ParseDict(SPEC, ModelSpec())
    for call in (
        replica.service.ApplyModel(rpc.ApplyModelRequest(spec=spec, etag=etag)),
        replica.service.PromoteModelVersion(
            rpc.PromoteModelVersionRequest(model="toy", version=1, override="test", etag=etag)
        ),
    ):
        with pytest.raises(errors.InvalidArgument, match="send the etag that you read") as raised:
            await call
        assert raised.value.field == "etag"


async def test_applying_an_equal_spec_changes_nothing_and_an_old_etag_is_a_conflict() -> None:
    replica = await applied(Trainer(), Evaluator())
    again = await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict(SPEC, ModelSpec())))
    assert again.model.etag == "1"
    changed = ParseDict({**SPEC, "config": {"steps": 5}}, ModelSpec())
    second = await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=changed, etag="1"))
    assert second.model.etag == "2"
    with pytest.raises(errors.Conflict):
        await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=changed, etag="1"))


async def test_a_run_becomes_one_version_however_often_it_is_registered() -> None:
    replica = await applied(Trainer("run-a"), Evaluator())
    assert [key async for key in replica.register.pending()] == [VersionKey("run-a")]
    for _ in range(3):
        await replica.register.reconcile(VersionKey("run-a"))
    listed = await replica.service.ListModelVersions(rpc.ListModelVersionsRequest(model="toy"))
    assert [(v.version, v.run_id, v.artifact.digest) for v in listed.model_versions] == [
        (1, "run-a", "digest-of-run-a")
    ]
    assert not [run async for run in replica.register.pending()]


async def test_versions_are_found_by_number_and_by_alias() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    by_alias = await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model="toy", alias="champion"))
    assert by_alias.model_version.version == 1
    with pytest.raises(errors.NotFound, match="newest is 2"):
        await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model="toy", version=3))
    with pytest.raises(errors.InvalidArgument, match="either"):
        await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model="toy"))
    with pytest.raises(errors.NotFound, match="no version yet"):
        await replica.service.GetAlias(rpc.GetAliasRequest(model="toy", alias="canary"))


async def test_every_alias_of_a_model_is_listed_by_its_newest_move() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    assert not (await replica.service.ListAliases(rpc.ListAliasesRequest(model="toy"))).entries
    for alias, version in (("shadow", 1), ("shadow", 2), ("canary", 1)):
        request = rpc.PromoteModelVersionRequest(model="toy", alias=alias, version=version, override="a trial")
        await replica.service.PromoteModelVersion(request)
    listed = (await replica.service.ListAliases(rpc.ListAliasesRequest(model="toy"))).entries
    assert [(entry.alias, entry.version) for entry in listed] == [("canary", 1), ("shadow", 2)]
    with pytest.raises(errors.NotFound, match="no model other"):
        await replica.service.ListAliases(rpc.ListAliasesRequest(model="other"))


async def test_a_model_is_shown_with_its_present_gate() -> None:
    replica = await registered(0, Evaluator())

    async def gate() -> list[tuple[str, float]]:
        model = (await replica.service.GetModel(rpc.GetModelRequest(model="toy"))).model
        return [(rule.metric, rule.at_least) for rule in model.present_gate]

    of_recipe = await gate()
    await apply(replica, gate=[{"metric": "accuracy", "at_least": 0.125}])
    assert await gate() == [("accuracy", 0.125)] != of_recipe


async def test_a_model_is_shown_with_the_newest_moves_of_champion_and_of_what_inference_serves() -> None:
    replica = await registered(2, Evaluator())
    for alias, version in (("shadow", 1), ("shadow", 2), ("canary", 1)):
        request = rpc.PromoteModelVersionRequest(model="toy", alias=alias, version=version, override="a trial")
        await replica.service.PromoteModelVersion(request)
    await apply(replica, serving={"aliases": ["shadow", "next"]})
    shown = (await replica.service.GetModel(rpc.GetModelRequest(model="toy"))).model
    (listed,) = (await replica.service.ListModels(rpc.ListModelsRequest())).models
    newest = [("champion", 0, 0), ("shadow", 2, 2), ("next", 0, 0)]
    for model in (shown, listed):
        assert [(entry.alias, entry.number, entry.version) for entry in model.aliases] == newest


async def test_a_promotion_keeps_its_actor_time_reason_and_report() -> None:
    evaluator = Evaluator()
    replica = await registered(1, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    await replica.promote.reconcile(PromotionKey("toy"))
    (entry,) = await entries(replica)
    assert (entry.version, entry.report_id, entry.actor) == (1, "report-1-0", "registry")
    assert entry.action == AliasEntry.ACTION_PROMOTED_AUTOMATICALLY
    assert entry.reason and entry.time.seconds


async def apply(replica: Any, **change: Any) -> None:
    await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict({**SPEC, **change}, ModelSpec())))


async def test_a_stricter_gate_holds_for_reports_that_were_made_before_it() -> None:
    evaluator = Evaluator()
    replica = await registered(1, evaluator)
    evaluator.passes(1, 0, accuracy=0.8)
    await apply(replica, gate=[{"metric": "accuracy", "at_least": 0.9}])
    await replica.promote.reconcile(PromotionKey("toy"))
    assert not await entries(replica), "its report passed an older gate"
    request = rpc.PromoteModelVersionRequest(model="toy", version=1)
    with pytest.raises(errors.FailedPrecondition, match=r"accuracy is 0\.8000, not at least 0\.9"):
        await replica.service.PromoteModelVersion(request)
    await apply(replica, gate=[{"metric": "accuracy", "at_least": 0.7}])
    await replica.promote.reconcile(PromotionKey("toy"))
    assert [entry.version for entry in await entries(replica)] == [1]


async def test_a_looser_gate_lets_a_version_through_whose_figures_pass_it() -> None:
    evaluator = Evaluator()
    replica = await registered(1, evaluator)
    evaluator.passes(1, 0, accuracy=0.6).status = EvaluationReport.STATUS_FAILED
    await apply(replica, gate=[{"metric": "accuracy", "at_least": 0.5}])
    await replica.promote.reconcile(PromotionKey("toy"))
    assert [entry.report_id for entry in await entries(replica)] == ["report-1-0"]


async def test_without_a_gate_of_the_model_the_recipes_holds_for_old_reports_too() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(1, 0, accuracy=0.6).lineage.recipe = "toy_words"
    await replica.promote.reconcile(PromotionKey("toy"))
    assert not await entries(replica), "the recipe wants an accuracy of 0.7"


async def test_a_rollback_stays_rolled_back_until_released() -> None:
    evaluator = Evaluator()
    replica = await registered(3, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    evaluator.passes(2, 1)
    await replica.promote.reconcile(PromotionKey("toy"))
    back = await replica.service.RollbackAlias(rpc.RollbackAliasRequest(model="toy", reason="angry users"))
    assert (back.entry.version, back.entry.hold) == (1, True)
    evaluator.passes(3, 1)
    await replica.promote.reconcile(PromotionKey("toy"))
    assert [entry.version for entry in await entries(replica)] == [1, 2, 1], "on hold nothing may move the alias"
    await replica.service.ReleaseAlias(rpc.ReleaseAliasRequest(model="toy", reason="fixed"))
    await replica.promote.reconcile(PromotionKey("toy"))
    assert [entry.version for entry in await entries(replica)] == [3, 1, 1, 2, 1], "version 3, and never 2 again"


async def test_alias_at_gives_the_entry_that_held_then() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    before = Timestamp()
    before.GetCurrentTime()
    for version in (1, 2):
        evaluator.passes(version, version - 1)
        await replica.promote.reconcile(PromotionKey("toy"))
    second, first = await entries(replica)
    for entry in (first, second):
        found = await replica.service.AliasAt(rpc.AliasAtRequest(model="toy", time=entry.time))
        assert found.entry == entry
    with pytest.raises(errors.NotFound):
        await replica.service.AliasAt(rpc.AliasAtRequest(model="toy", time=before))


@pytest.mark.parametrize(("winner", "loser", "evaluated_again"), [(1, 2, True), (2, 1, False)])
async def test_of_two_promotions_at_once_one_wins_and_the_other_is_evaluated_again_if_it_is_newer(
    winner: int, loser: int, evaluated_again: bool
) -> None:
    blobs, trainer = MemoryBlobs(), Trainer("run-1", "run-2")
    fast, slow = Evaluator(), SlowEvaluator()
    fast.passes(winner, 0)
    slow.passes(loser, 0)
    first, second = registry(blobs, trainer, fast), registry(blobs, trainer, slow)
    await first.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict(SPEC, ModelSpec())))
    for run in ("run-1", "run-2"):
        await first.register.reconcile(VersionKey(run))
    late = asyncio.create_task(second.promote.reconcile(PromotionKey("toy")))
    await slow.asked.wait()
    await first.promote.reconcile(PromotionKey("toy"))
    slow.go_on.set()
    with pytest.raises(errors.Conflict, match="read it again"):
        await late
    await second.promote.reconcile(PromotionKey("toy"))
    assert [entry.version for entry in await entries(second)] == [winner], (
        "the loser's report compared with no champion"
    )
    champion = champion_of({entry.number: entry.version for entry in await entries(second)})
    assert is_pending(loser, champion, slow.reports) == evaluated_again
    if evaluated_again:
        slow.passes(loser, winner)
        await second.promote.reconcile(PromotionKey("toy"))
        assert [entry.version for entry in await entries(second)] == [loser, winner]


async def test_a_page_token_continues_where_the_page_ended() -> None:
    replica = await registered(5, Evaluator())
    request, seen = rpc.ListModelVersionsRequest(model="toy", page_size=2), []
    while True:
        response = await replica.service.ListModelVersions(request)
        seen += [version.version for version in response.model_versions]
        request.page_token = response.next_page_token
        if not request.page_token:
            break
    assert seen == [5, 4, 3, 2, 1]


async def test_a_request_id_answers_the_same_and_is_refused_for_anything_else() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    evaluator.passes(2, 1)
    await replica.promote.reconcile(PromotionKey("toy"))
    spec = ParseDict({**SPEC, "config": {"steps": 5}}, ModelSpec())
    calls: list[tuple[Any, Any, str]] = [
        (replica.service.ApplyModel, rpc.ApplyModelRequest(spec=spec, request_id="a"), "spec"),
        (replica.service.RollbackAlias, rpc.RollbackAliasRequest(model="toy", reason="x", request_id="b"), "reason"),
        (replica.service.ReleaseAlias, rpc.ReleaseAliasRequest(model="toy", reason="x", request_id="c"), "reason"),
    ]
    for call, request, field in calls:
        first = await call(request)
        assert await call(request) == first, "a repeated request must get the same answer"
        if field == "spec":
            request.spec.config["steps"] = 6
        else:
            request.reason = "y"
        with pytest.raises(errors.InvalidArgument, match="request_id"):
            await call(request)
    assert len(await entries(replica)) == 4


async def test_names_that_callers_make_up_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LEDGERS", 8)
    replica = await registered(1, Evaluator())
    kept = weakref.ref(replica.store.alias("toy", "made-up"))
    assert kept()
    for number in range(8):
        with pytest.raises(errors.NotFound):
            await replica.service.GetAlias(rpc.GetAliasRequest(model="toy", alias=f"made-up-{number}"))
    gc.collect()
    assert kept() is None
    assert (await replica.service.GetModelVersion(rpc.GetModelVersionRequest(model="toy", version=1))).model_version
