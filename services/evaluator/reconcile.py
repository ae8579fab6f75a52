"""Every version gets the reports that it is owed, each exactly once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import ModelVersion
from millstream.states import word_of
from servicekit.failpoints import failpoint
from services.evaluator import metrics
from services.evaluator.attempts import Attempts
from services.evaluator.clients import Clients
from services.evaluator.due import Champion, is_pending
from services.evaluator.evaluate import EvaluationInputs, Evaluator
from services.evaluator.report.build import add_error, report_on
from services.evaluator.store import Store

log = logging.getLogger(__name__)
BUSY_SECONDS = 0.5


async def pending_of(model: str, clients: Clients, store: Store) -> AsyncIterator[str]:
    """The versions of a model that are owed a report now, as `model/version`."""
    champion = await clients.champion(model)
    reports = await store.reports(model)
    _show_primary(model, reports)
    async for version in clients.versions(model):
        if is_pending(version, champion, [report for report in reports if report.version == version]):
            yield f"{model}/{version}"


def _show_primary(model: str, reports: list[EvaluationReport]) -> None:
    newest = max((r for r in reports if r.metrics), key=lambda r: (r.version, r.champion_entry), default=None)
    if newest:
        metrics.PRIMARY.labels(model).set(newest.metrics[0].candidate)


class Evaluate:
    """A version gets its report. One evaluation at a time: a model may need all the memory that there is."""

    kind = "evaluation"

    def __init__(self, store: Store, clients: Clients, evaluator: Evaluator, lease_seconds: float) -> None:
        self.store, self.clients, self.evaluator = store, clients, evaluator
        self.lease_seconds = lease_seconds
        self._attempts: dict[str, Attempts] = {}
        self._one = asyncio.Lock()

    async def pending(self) -> AsyncIterator[str]:
        async for model in self.clients.models():
            async for name in pending_of(model, self.clients, self.store):
                yield name

    async def reconcile(self, name: str) -> float | None:
        async with self._one:
            version, champion = await self._subject(name)
            if not await self._is_pending(version, champion):
                return None
            return await self._try(report_on(version, champion), await self.evaluator.ask(version, champion))

    async def end(self, name: str, error: MillstreamError) -> None:
        """The report says why there is none. A version that the registry does not know is owed nothing."""
        try:
            version, champion = await self._subject(name)
        except (NotFound, InvalidArgument):
            return
        if await self._is_pending(version, champion):
            await self._conclude(add_error(report_on(version, champion), str(error)))

    async def _subject(self, name: str) -> tuple[ModelVersion, Champion]:
        model, _, number = name.rpartition("/")
        version = await self.clients.version(model, int(number))
        return version, await self.clients.champion(model)

    async def _is_pending(self, version: ModelVersion, champion: Champion) -> bool:
        return is_pending(version.version, champion, await self.store.reports(version.model, version.version))

    async def _try(self, report: EvaluationReport, inputs: EvaluationInputs) -> float | None:
        """Claim a try and make the report, unless another replica is at it or the tries are used up."""
        attempts = self._attempts.setdefault(
            report.report_id, Attempts(self.store.blobs, report.report_id, self.lease_seconds)
        )
        status = await attempts.status()
        if status.busy:
            return BUSY_SECONDS
        if status.exhausted:
            await self._conclude(add_error(report, status.reason))
            return None
        number = status.newest + 1
        if not await attempts.leases.claim(number):
            return BUSY_SECONDS
        async with attempts.leases.holding(number):
            failpoint("evaluator.claimed")
            try:
                await self._conclude(await self.evaluator.evaluate(inputs))
            except BaseException as error:
                # A cancelled try (SIGTERM) and one that lacked a peer are no sign against the version.
                is_bug = isinstance(error, Exception) and not isinstance(error, MillstreamError)
                with suppress(MillstreamError):
                    await attempts.end(number, f"{type(error).__name__}: {error}", counts=is_bug)
                raise
        return None

    async def _conclude(self, report: EvaluationReport) -> None:
        first = await self.store.put(report)
        self._attempts.pop(report.report_id, None)
        status = word_of(EvaluationReport.Status, first.status)
        if first.create_time == report.create_time:
            metrics.REPORTS.labels(status).inc()
        _show_primary(report.model, await self.store.reports(report.model))
        log.info("evaluated", extra={"model": first.model, "version": first.version, "status": status})


class FindChallengers:
    """When a champion changes, the versions of its model that are owed another report are queued."""

    kind = "model"

    def __init__(self, store: Store, clients: Clients, queue: Callable[[str], None]) -> None:
        """`queue` takes the name of an evaluation."""
        self.store, self.clients, self.queue = store, clients, queue

    async def pending(self) -> AsyncIterator[str]:
        """Nothing: the look of Evaluate finds every evaluation by itself."""
        nothing: tuple[str, ...] = ()
        for name in nothing:
            yield name

    async def reconcile(self, name: str) -> float | None:
        async for evaluation in pending_of(name, self.clients, self.store):
            self.queue(evaluation)
        return None

    async def end(self, name: str, error: MillstreamError) -> None:
        """Nothing to write: every version has its own end."""
        log.warning("challengers not found", extra={"model": name, "error": str(error)})
