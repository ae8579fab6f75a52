"""Every version gets the reports that it is owed, each exactly once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from millstream.errors import InvalidArgument, MillstreamError, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import ModelVersion
from servicekit.failpoints import crashpoint
from services.evaluator import metrics
from services.evaluator.attempts import Attempts
from services.evaluator.clients import Peers
from services.evaluator.due import Champion, is_owed
from services.evaluator.evaluate import Brief, Evaluator
from services.evaluator.report.build import add_error, report_on
from services.evaluator.store import Store

log = logging.getLogger(__name__)
BUSY_SECONDS = 0.5


async def owed_of(model: str, peers: Peers, store: Store) -> AsyncIterator[str]:
    """The versions of a model that are owed a report now, as `model/version`."""
    champion = await peers.champion(model)
    reports = await store.reports(model)
    _show_primary(model, reports)
    async for version in peers.versions(model):
        if is_owed(version, champion, [report for report in reports if report.version == version]):
            yield f"{model}/{version}"


def _show_primary(model: str, reports: list[EvaluationReport]) -> None:
    newest = max((r for r in reports if r.metrics), key=lambda r: (r.version, r.champion_entry), default=None)
    if newest:
        metrics.PRIMARY.labels(model).set(newest.metrics[0].candidate)


class Evaluate:
    """A version gets its report. One evaluation at a time: a model may need all the memory that there is."""

    kind = "evaluation"

    def __init__(self, store: Store, peers: Peers, evaluator: Evaluator, lease_seconds: float) -> None:
        self.store, self.peers, self.evaluator = store, peers, evaluator
        self.lease_seconds = lease_seconds
        self._attempts: dict[str, Attempts] = {}
        self._one = asyncio.Lock()

    async def owed(self) -> AsyncIterator[str]:
        async for model in self.peers.models():
            async for name in owed_of(model, self.peers, self.store):
                yield name

    async def reconcile(self, name: str) -> float | None:
        async with self._one:
            version, champion = await self._subject(name)
            if not await self._is_owed(version, champion):
                return None
            return await self._try(report_on(version, champion), await self.evaluator.ask(version, champion))

    async def end(self, name: str, error: MillstreamError) -> None:
        """The report says why there is none. A version that the registry does not know is owed nothing."""
        try:
            version, champion = await self._subject(name)
        except (NotFound, InvalidArgument):
            return
        if await self._is_owed(version, champion):
            await self._conclude(add_error(report_on(version, champion), str(error)))

    async def _subject(self, name: str) -> tuple[ModelVersion, Champion]:
        model, _, number = name.rpartition("/")
        version = await self.peers.version(model, int(number))
        return version, await self.peers.champion(model)

    async def _is_owed(self, version: ModelVersion, champion: Champion) -> bool:
        return is_owed(version.version, champion, await self.store.reports(version.model, version.version))

    async def _try(self, report: EvaluationReport, brief: Brief) -> float | None:
        """Claim a try and make the report, unless another replica is at it or the tries are used up."""
        attempts = self._attempts.setdefault(
            report.report_id, Attempts(self.store.blobs, report.report_id, self.lease_seconds)
        )
        standing = await attempts.look()
        if standing.busy:
            return BUSY_SECONDS
        if standing.exhausted:
            await self._conclude(add_error(report, standing.reason))
            return None
        number = standing.newest + 1
        if not await attempts.claims.claim(number):
            return BUSY_SECONDS
        async with attempts.claims.holding(number):
            crashpoint("evaluator.claimed")
            try:
                await self._conclude(await self.evaluator.evaluate(brief))
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
        status = EvaluationReport.Status.Name(first.status).removeprefix("STATUS_").lower()
        if first.create_time == report.create_time:
            metrics.REPORTS.labels(status).inc()
        _show_primary(report.model, await self.store.reports(report.model))
        log.info("evaluated", extra={"model": first.model, "version": first.version, "status": status})


class FindChallengers:
    """When a champion changes, the versions of its model that are owed another report are queued."""

    kind = "model"

    def __init__(self, store: Store, peers: Peers, queue: Callable[[str], None]) -> None:
        """`queue` takes the name of an evaluation."""
        self.store, self.peers, self.queue = store, peers, queue

    async def owed(self) -> AsyncIterator[str]:
        """Nothing: the look of Evaluate finds every evaluation by itself."""
        nothing: tuple[str, ...] = ()
        for name in nothing:
            yield name

    async def reconcile(self, name: str) -> float | None:
        async for evaluation in owed_of(name, self.peers, self.store):
            self.queue(evaluation)
        return None

    async def end(self, name: str, error: MillstreamError) -> None:
        """Nothing to write: every version has its own end."""
        log.warning("challengers not found", extra={"model": name, "error": str(error)})
