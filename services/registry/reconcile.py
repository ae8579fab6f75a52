"""Registers a version for every succeeded run, and promotes the champion where the evaluation reports allow it."""

import logging
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from typing_extensions import override

from millstream.client.aio.pages import pages
from millstream.defaults import CHAMPION
from millstream.errors import DataLoss, MillstreamError, NotFound
from millstream.registry.v1.model_pb2 import AliasEntry, ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from millstream.training.v1.training_service_pb2 import GetTrainingRunRequest, ListTrainingRunsRequest
from recipekit.catalog import Catalog
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler
from servicekit.work.resync import LOOK_AGAIN_SECONDS
from services.registry.clients import all_reports
from services.registry.metrics import MOVES, VERSIONS
from services.registry.rules import damaged, next_promotion, present_gate
from services.registry.store import Store

if TYPE_CHECKING:
    from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceAsyncStub
    from millstream.training.v1.training_service_pb2_grpc import TrainingServiceAsyncStub


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionKey(Key):
    """The version of one succeeded run."""

    kind = "version"
    run_id: str


@dataclass(frozen=True)
class PromotionKey(Key):
    """The next promotion of a model."""

    kind = "promotion"
    model: str


class RegisterVersion(Reconciler[VersionKey]):
    """Every succeeded run gets exactly one model version: it is appended with the run's id as request_id."""

    kind = VersionKey.kind

    def __init__(self, store: Store, trainer: "TrainingServiceAsyncStub") -> None:
        self.store, self.trainer = store, trainer

    @override
    async def pending(self) -> AsyncIterator[VersionKey | DataLoss]:
        request = ListTrainingRunsRequest(states=[TrainingRun.STATE_SUCCEEDED], page_size=1000)
        async for page in pages(self.trainer.ListTrainingRuns, request):
            of_models = defaultdict[str, list[str]](list)
            for run in page.runs:
                if run.spec.model:
                    of_models[run.spec.model].append(run.run_id)
                else:  # its request is damaged
                    yield DataLoss(run.reason)
            for model, run_ids in of_models.items():
                try:
                    index = await self.store.versions(model).index()
                except DataLoss as error:
                    yield error
                    continue
                for run_id in run_ids:
                    if not index.number_of(run_id):
                        yield VersionKey(run_id)

    @override
    async def reconcile(self, key: VersionKey) -> None:
        run = (await self.trainer.GetTrainingRun(GetTrainingRunRequest(run_id=key.run_id))).run
        if run.state != TrainingRun.STATE_SUCCEEDED:
            return
        model = run.spec.model
        await self.store.check_exists(model)
        version = ModelVersion(
            model=model, run_id=run.run_id, artifact=run.artifact, lineage=run.lineage, metrics=run.metrics
        )
        known = await self.store.versions(model).count()
        entry = await self.store.versions(model).append(version, request_id=run.run_id, actor="registry")
        if entry.number > known:
            VERSIONS.labels(model).inc()

    @override
    async def end(self, key: VersionKey, error: MillstreamError) -> bool:
        log.error("version not registered", extra={"run_id": key.run_id, "error": str(error)})
        return False


class Promote(Reconciler[PromotionKey]):
    """A passing report moves the champion of a model that promotes automatically."""

    kind = PromotionKey.kind

    def __init__(self, store: Store, evaluator: "EvaluationServiceAsyncStub", catalog: Catalog) -> None:
        self.store, self.evaluator, self.catalog = store, evaluator, catalog

    @override
    async def pending(self) -> AsyncIterator[PromotionKey | DataLoss]:
        for name in await self.store.names():
            try:
                model = await self.store.model(name)
            except DataLoss as error:
                yield error
                continue
            except NotFound:
                continue  # a name may be listed that was never stored (see Blobs.list)
            if model.spec.promotion.automatic:
                yield PromotionKey(name)

    @override
    async def reconcile(self, key: PromotionKey) -> float | None:
        name = key.model
        # Each move by hand asks for a promotion, too: of a model that has none nothing more is read.
        if not (await self.store.model(name)).spec.promotion.automatic:
            return None
        entries = await self.store.alias_entries(name, CHAMPION)
        # No other version may follow the champion by itself.
        champion = entries[-1].version if entries else 0
        reports = await all_reports(self.evaluator, name, after=champion)
        # Read last, so that a gate that was just applied holds.
        spec = (await self.store.model(name)).spec
        if not spec.promotion.automatic:
            return None
        report = next_promotion(entries, reports, partial(present_gate, spec, self.catalog))
        if report:
            await self.store.version(name, report.version)
            entry = AliasEntry(
                model=name,
                alias=CHAMPION,
                version=report.version,
                action=AliasEntry.ACTION_PROMOTED_AUTOMATICALLY,
                reason="its evaluation report passes the model's gate",
                report_id=report.report_id,
            )
            ledger = self.store.alias(name, CHAMPION)
            await ledger.append(entry, request_id=report.report_id, actor="registry", expected=len(entries))
            MOVES.labels(name, "promoted_automatically").inc()
        # Once it is restored, no event says so.
        return LOOK_AGAIN_SECONDS if damaged(reports) else None

    @override
    async def end(self, key: PromotionKey, error: MillstreamError) -> bool:
        log.error("promotion failed; the next resync tries again", extra={"model": key.model, "error": str(error)})
        return False
