"""A caller that knows what there was asks for what is newer: the services answer with that, and they ask each other so."""

from typing import Any, cast

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest, ListEvaluationReportsResponse
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.timestamps import now
from servicekit.blobs.memory import MemoryBlobs
from servicekit.facts.outbox import Outbox
from services.evaluator.clients import Clients
from services.evaluator.service import EvaluationService
from services.evaluator.store import FACTS, Store, folder_of, report_id_of
from services.registry.reconcile import PromotionKey
from tests.worlds.registry import Evaluator, registered


async def test_the_registry_lists_versions_and_moves_after_a_number() -> None:
    replica = await registered(4, Evaluator())
    for version in (1, 2, 3):
        move = rpc.PromoteModelVersionRequest(model="toy", version=version, override="test")
        await replica.service.PromoteModelVersion(move)
    versions = await replica.service.ListModelVersions(rpc.ListModelVersionsRequest(model="toy", after_version=2))
    assert [version.version for version in versions.model_versions] == [4, 3]
    moves = await replica.service.ListAliasEntries(
        rpc.ListAliasEntriesRequest(model="toy", alias="champion", after_number=1)
    )
    assert [move.number for move in moves.entries] == [3, 2]


async def test_the_evaluator_lists_reports_after_a_version() -> None:
    blobs = MemoryBlobs()
    for version in range(1, 6):
        report_id = report_id_of("toy", version, "snapshot", 0)
        report = EvaluationReport(report_id=report_id, model="toy", version=version, create_time=now())
        await blobs.put(f"{folder_of(report_id)}/report", report.SerializeToString())
    store = Store(blobs, Outbox(blobs, None, "evaluator", FACTS))
    service = EvaluationService(store, *cast("Any", (None, None)))
    found = await service.ListEvaluationReports(ListEvaluationReportsRequest(model="toy", after_version=3))
    assert [report.version for report in found.reports] == [5, 4]


class Registry:
    """Answers what is newer than the caller says, and keeps what it said."""

    def __init__(self) -> None:
        self.after: list[int] = []
        self.moves = [AliasEntry(number=1, version=1), AliasEntry(number=2, version=3)]

    async def ListAliasEntries(self, request: rpc.ListAliasEntriesRequest) -> rpc.ListAliasEntriesResponse:
        self.after.append(request.after_number)
        return rpc.ListAliasEntriesResponse(entries=[one for one in self.moves if one.number > request.after_number])

    async def ListModelVersions(self, request: rpc.ListModelVersionsRequest) -> rpc.ListModelVersionsResponse:
        self.after.append(request.after_version)
        return rpc.ListModelVersionsResponse(model_versions=[ModelVersion(version=5)])


async def test_the_evaluator_asks_for_the_moves_and_versions_that_it_does_not_know() -> None:
    registry = Registry()
    clients = Clients(cast("Any", registry), cast("Any", None))
    first = await clients.champion("toy")
    registry.moves.append(AliasEntry(number=3, version=4))
    second = await clients.champion("toy")
    assert registry.after == [0, 2]
    assert (first.version, second.version) == (3, 4)
    assert [version async for version in clients.versions("toy", 4)] == [5] and registry.after[-1] == 4


async def test_the_registry_asks_for_reports_on_versions_above_the_champion() -> None:
    class Recorded(Evaluator):
        after: int = -1

        async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
            self.after = request.after_version
            return await super().ListEvaluationReports(request)

    evaluator = Recorded()
    replica = await registered(3, evaluator)
    evaluator.passes(2, 0)
    await replica.promote.reconcile(PromotionKey("toy"))
    assert evaluator.after == 0
    await replica.promote.reconcile(PromotionKey("toy"))
    assert evaluator.after == 2
