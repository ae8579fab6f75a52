"""A registry on a store in memory: any number of replicas, a trainer whose runs succeeded, an evaluator with reports."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

from google.protobuf.json_format import ParseDict

from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest, ListEvaluationReportsResponse
from millstream.registry.v1 import registry_service_pb2 as rpc
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import Artifact, TrainingRun, TrainingRunSpec
from recipekit.catalog import Catalog
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.facts.outbox import Outbox
from services.registry.reconcile import Promote, RegisterVersion, VersionKey
from services.registry.service import RegistryService
from services.registry.store import FACTS, Store

SPEC = {"model": "toy", "recipe": "toy_words", "dataset": "words", "promotion": {"automatic": True}}


class Trainer:
    """A trainer whose runs have all succeeded."""

    def __init__(self, *run_ids: str) -> None:
        self.runs = {
            run_id: TrainingRun(
                run_id=run_id,
                spec=TrainingRunSpec(model="toy"),
                state=TrainingRun.STATE_SUCCEEDED,
                artifact=Artifact(digest=f"digest-of-{run_id}"),
                metrics={"accuracy": 0.9},
            )
            for run_id in run_ids
        }

    async def GetTrainingRun(self, request: training.GetTrainingRunRequest) -> training.GetTrainingRunResponse:
        await asyncio.sleep(0)
        return training.GetTrainingRunResponse(run=self.runs[request.run_id])

    async def ListTrainingRuns(self, request: training.ListTrainingRunsRequest) -> training.ListTrainingRunsResponse:
        await asyncio.sleep(0)
        return training.ListTrainingRunsResponse(runs=self.runs.values())


class Evaluator:
    """An evaluator with the reports that a test makes."""

    def __init__(self) -> None:
        self.reports: list[EvaluationReport] = []

    def passes(self, version: int, champion: int, accuracy: float = 0.8) -> EvaluationReport:
        """Add a passing report on a version, compared with that champion (0: none)."""
        report_id = f"report-{version}-{champion}"
        report = EvaluationReport(report_id=report_id, model="toy", version=version, champion_version=champion)
        report.status = EvaluationReport.STATUS_PASSED
        report.metrics.add(metric="accuracy", candidate=accuracy, higher_is_better=True)
        report.label_change.SetInParent()
        self.reports.insert(0, report)
        return report

    async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
        await asyncio.sleep(0)
        return ListEvaluationReportsResponse(
            reports=[report for report in self.reports if request.version in (0, report.version)]
        )


class SlowEvaluator(Evaluator):
    """Reads its reports at once, and answers only after `go_on`, when another promotion has won."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def ListEvaluationReports(self, request: ListEvaluationReportsRequest) -> ListEvaluationReportsResponse:
        answer = await super().ListEvaluationReports(request)
        self.asked.set()
        await self.go_on.wait()
        return answer


def registry(blobs: Blobs, trainer: Trainer, evaluator: Evaluator) -> SimpleNamespace:
    """One replica."""
    store = Store(blobs, Outbox(blobs, MemoryBus(), "registry", FACTS))
    catalog = Catalog(["recipes", "tests.recipes"])
    service = RegistryService(store, evaluator, catalog)  # type: ignore[arg-type]
    register, promote = RegisterVersion(store, trainer), Promote(store, evaluator, catalog)  # type: ignore[arg-type]
    return SimpleNamespace(store=store, service=service, register=register, promote=promote)


async def applied(trainer: Trainer, evaluator: Evaluator) -> SimpleNamespace:
    replica = registry(MemoryBlobs(), trainer, evaluator)
    await replica.service.ApplyModel(rpc.ApplyModelRequest(spec=ParseDict(SPEC, ModelSpec())))
    return replica


async def registered(versions: int, evaluator: Evaluator) -> SimpleNamespace:
    """A replica with a model of that many versions."""
    runs = [f"run-{number}" for number in range(1, versions + 1)]
    replica = await applied(Trainer(*runs), evaluator)
    for run in runs:
        await replica.register.reconcile(VersionKey(run))
    return replica


async def entries(replica: SimpleNamespace) -> Sequence[AliasEntry]:
    return (await replica.service.ListAliasEntries(rpc.ListAliasEntriesRequest(model="toy"))).entries
