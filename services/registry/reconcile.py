"""What should be, from what is: a version for every succeeded run, and the champion where the reports allow it."""

import logging
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from millstream.errors import MillstreamError
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from millstream.training.v1.training_service_pb2 import GetTrainingRunRequest, ListTrainingRunsRequest
from services.registry.metrics import MOVES, VERSIONS
from services.registry.store import CHAMPION, Store

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub
    from millstream.training.v1.training_service_pb2_grpc import TrainingServiceAsyncStub


log = logging.getLogger(__name__)


class RegisterVersion:
    """Every succeeded run gets one model version: the ledger's request_id is the run's id."""

    kind = "version"

    def __init__(self, store: Store, trainer: "TrainingServiceAsyncStub") -> None:
        self.store, self.trainer = store, trainer

    async def owed(self) -> AsyncIterator[str]:
        request = ListTrainingRunsRequest(states=[TrainingRun.STATE_SUCCEEDED], page_size=1000)
        while True:
            response = await self.trainer.ListTrainingRuns(request)
            for run in response.runs:
                known = await self.store.versions(run.spec.model).entries()
                if all(entry.request_id != run.run_id for entry in known):
                    yield run.run_id
            request.page_token = response.next_page_token
            if not request.page_token:
                return

    async def reconcile(self, name: str) -> None:
        run = (await self.trainer.GetTrainingRun(GetTrainingRunRequest(run_id=name))).run
        if run.state != TrainingRun.STATE_SUCCEEDED:
            return
        model = run.spec.model
        await self.store.model(model)
        version = ModelVersion(
            model=model, run_id=run.run_id, artifact=run.artifact, lineage=run.lineage, metrics=run.metrics
        )
        known = len(await self.store.versions(model).entries())
        entry = await self.store.versions(model).append(version, request_id=run.run_id, who="registry")
        if entry.number > known:
            VERSIONS.labels(model).inc()

    async def end(self, name: str, error: MillstreamError) -> None:
        log.error("run stays without a version", extra={"run_id": name, "error": str(error)})


class Promote:
    """A passing report moves the champion of a model that promotes automatically."""

    kind = "promotion"

    def __init__(self, store: Store, evaluator: "EvaluationServiceAsyncStub") -> None:
        self.store, self.evaluator = store, evaluator

    async def owed(self) -> AsyncIterator[str]:
        for name in await self.store.models():
            if (await self.store.model(name)).spec.promotion.automatic:
                yield name

    async def reconcile(self, name: str) -> None:
        if not (await self.store.model(name)).spec.promotion.automatic:
            return
        entries = await self.store.alias_entries(name, CHAMPION)
        report = next_promotion(entries, await all_reports(self.evaluator, name))
        if report:
            await self.store.version(name, report.version)
            entry = AliasEntry(
                model=name,
                alias=CHAMPION,
                version=report.version,
                action=AliasEntry.ACTION_PROMOTED_AUTOMATICALLY,
                reason="its evaluation report passed the gate",
                report_id=report.report_id,
            )
            ledger = self.store.alias(name, CHAMPION)
            await ledger.append(entry, request_id=report.report_id, who="registry", expected=len(entries))
            MOVES.labels(name, "promoted_automatically").inc()

    async def end(self, name: str, error: MillstreamError) -> None:
        log.error("promotion given up until the next look", extra={"model": name, "error": str(error)})


def next_promotion(entries: Sequence[AliasEntry], reports: Sequence[EvaluationReport]) -> EvaluationReport | None:
    """The report that moves the champion now, or None.

    It passed, it compared with the version that is champion now, and its version is above that one and never held the
    alias. While the alias is on hold nothing moves it. Of several, the newest version wins.
    """
    if entries and entries[-1].hold:
        return None
    champion = entries[-1].version if entries else 0
    held = {entry.version for entry in entries}
    fitting = [
        report
        for report in reports
        if report.status == EvaluationReport.STATUS_PASSED
        and report.champion_version == champion
        and report.version > champion
        and report.version not in held
    ]
    return max(fitting, key=lambda report: report.version, default=None)


async def all_reports(evaluator: "EvaluationServiceAsyncStub", model: str, version: int = 0) -> list[EvaluationReport]:
    """Every report of a model, or of one version of it; newest first."""
    request = ListEvaluationReportsRequest(model=model, version=version, page_size=1000)
    reports: list[EvaluationReport] = []
    while True:
        response = await evaluator.ListEvaluationReports(request)
        reports += response.reports
        request.page_token = response.next_page_token
        if not request.page_token:
            return reports
