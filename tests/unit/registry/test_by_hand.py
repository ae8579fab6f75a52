"""Promotion by hand: what it needs, and what it never replaces."""

import asyncio

import pytest
from google.protobuf.json_format import ParseDict

from millstream import errors
from millstream.evaluation.v1.evaluation_report_pb2 import LabelChange
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import ModelSpec
from servicekit.blobs.memory import MemoryBlobs
from services.registry.reconcile import PromotionKey, VersionKey
from tests.worlds.registry import SPEC, Evaluator, SlowEvaluator, Trainer, entries, registered, registry


async def test_promoting_by_hand_needs_a_passing_report_or_an_override_that_is_kept() -> None:
    replica = await registered(1, Evaluator())
    request = rpc.PromoteModelVersionRequest(model="toy", version=1, request_id="mine")
    with pytest.raises(errors.FailedPrecondition, match="override"):
        await replica.service.PromoteModelVersion(request)
    request.override = "the test set is wrong"
    made = (await replica.service.PromoteModelVersion(request)).entry
    assert (made.override, made.hold, made.version) == ("the test set is wrong", True, 1)
    assert (await replica.service.PromoteModelVersion(request)).entry == made, (
        "a repeated request must get the same answer"
    )
    request.version, request.override = 1, "another reason"
    with pytest.raises(errors.InvalidArgument, match="request_id"):
        await replica.service.PromoteModelVersion(request)


async def test_by_hand_the_report_beside_the_present_champion_decides() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    evaluator.passes(2, 1).label_change.MergeFrom(LabelChange(lost=1, kept=1))
    evaluator.passes(2, 0)
    request = rpc.PromoteModelVersionRequest(model="toy", version=2)
    with pytest.raises(errors.FailedPrecondition, match="labels of the champion, version 1, are lost"):
        await replica.service.PromoteModelVersion(request)
    request.override = "the labels were renamed on purpose"
    assert (await replica.service.PromoteModelVersion(request)).entry.version == 2


async def test_by_hand_an_older_version_replaces_only_a_champion_that_it_was_compared_with() -> None:
    evaluator = Evaluator()
    replica = await registered(3, evaluator)
    evaluator.passes(1, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    evaluator.passes(3, 1).label_change.labels.add(label="mixed", version_rows=16)
    await replica.promote.reconcile(PromotionKey("toy"))
    evaluator.passes(2, 1)
    request = rpc.PromoteModelVersionRequest(model="toy", version=2)
    with pytest.raises(errors.FailedPrecondition, match=r"champion, version 3, .* 'mixed' .*reports again.*override"):
        await replica.service.PromoteModelVersion(request)
    assert [entry.version for entry in await entries(replica)] == [3, 1]
    evaluator.passes(2, 3)
    assert (await replica.service.PromoteModelVersion(request)).entry.report_id == "report-2-3"
    back = await replica.service.RollbackAlias(rpc.RollbackAliasRequest(model="toy", reason="angry users"))
    assert back.entry.version == 3, "a rollback needs no report"


async def test_by_hand_the_champion_is_held_and_another_alias_moved_without_another_report() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    for version in (1, 2):
        evaluator.passes(version, version - 1)
        await replica.promote.reconcile(PromotionKey("toy"))
    for version, alias in ((2, ""), (1, "stable")):
        request = rpc.PromoteModelVersionRequest(model="toy", version=version, alias=alias)
        assert (await replica.service.PromoteModelVersion(request)).entry.hold


@pytest.mark.parametrize("before", [[1], []], ids=["a champion", "no champion"])
async def test_by_hand_a_champion_that_came_meanwhile_is_not_replaced(before: list[int]) -> None:
    blobs, fast, slow = MemoryBlobs(), Evaluator(), SlowEvaluator()
    champion = len(before)
    slow.passes(2, champion)
    first, second = registry(blobs, Trainer("1", "2", "3"), fast), registry(blobs, Trainer(), slow)
    await first.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict(SPEC, ModelSpec())))
    for run in ("1", "2", "3"):
        await first.register.reconcile(VersionKey(run))
    for version in before:
        fast.passes(version, 0)
        await first.promote.reconcile(PromotionKey("toy"))
    request = rpc.PromoteModelVersionRequest(model="toy", version=2)
    late = asyncio.create_task(second.service.PromoteModelVersion(request))
    await slow.asked.wait()
    fast.passes(3, champion)
    assert (await first.service.PromoteModelVersion(rpc.PromoteModelVersionRequest(model="toy", version=3))).entry.hold
    slow.go_on.set()
    with pytest.raises(errors.Conflict, match="read it again"):
        await late
    assert [entry.version for entry in await entries(first)] == [3, *before]


async def test_a_repeated_promotion_keeps_its_first_report() -> None:
    evaluator = Evaluator()
    replica = await registered(2, evaluator)
    evaluator.passes(2, 1)
    request = rpc.PromoteModelVersionRequest(model="toy", version=2, request_id="mine")
    first = await replica.service.PromoteModelVersion(request)
    evaluator.reports.clear()
    evaluator.passes(2, 0)
    assert await replica.service.PromoteModelVersion(request) == first
