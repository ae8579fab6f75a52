"""Every version gets the reports that it needs, each exactly once."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from typing_extensions import override

from millstream.errors import DataLoss, InvalidArgument, MillstreamError, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import ModelVersion
from millstream.states import word_of
from recipekit.gate import is_damaged
from servicekit.failpoints import failpoint
from servicekit.work.keys import Key
from servicekit.work.queue import Reconciler, Work
from servicekit.work.resync import LOOK_AGAIN_SECONDS
from services.evaluator import metrics
from services.evaluator.attempts import Attempts
from services.evaluator.clients import Clients
from services.evaluator.due import ChampionAlias, is_pending, newest_of
from services.evaluator.evaluate import ChampionDied, EvaluationInputs, Evaluator, MachineTrouble, MeasurementFailed
from services.evaluator.report.build import add_error, report_on
from services.evaluator.store import Store

log = logging.getLogger(__name__)
EXPORT_TRIES = 10
"""The newest versions among which one that was measured is looked for at a start."""
POLL_SECONDS = 0.5
"""Between two reads of an attempt that another replica works on."""


@dataclass(frozen=True)
class EvaluationKey(Key):
    """A report on one version."""

    kind = "evaluation"
    model: str
    version: int


@dataclass(frozen=True)
class ChallengersKey(Key):
    """The versions of a model whose champion has changed."""

    kind = "model"
    model: str


class Subject(NamedTuple):
    """What a report is on."""

    version: ModelVersion
    champion: ChampionAlias
    request_number: int
    """Of the newest request for another report; 0: there is none."""


async def pending_of(
    model: str, clients: Clients, store: Store, reported: Mapping[int, str] | None = None
) -> AsyncIterator[EvaluationKey | DataLoss]:
    """The versions of a model without a report that compares them with the present champion.

    With `reported`, the versions that have a report with the key of one, of all versions; else only of those above the
    champion, since only they may need another. In place of a version that is damaged, or has a damaged report, comes the
    error. Raises DataLoss for the champion.
    """
    champion = await clients.champion(model)
    requested = {} if reported is None else await store.request_numbers(model)
    async for version in clients.versions(model, champion.version if reported is None else 0):
        if isinstance(version, DataLoss):
            yield version
            continue
        key = (reported or {}).get(version, "")
        if key and version <= champion.version and version not in requested:
            try:
                await store.stored_report(key)
            except DataLoss as error:
                yield error
            except NotFound:
                key = ""  # it was listed in vain
            if key:
                continue
        on_version = await store.reports(model, version)
        damaged = [report.error for report in on_version if is_damaged(report)]
        if damaged:
            yield DataLoss(damaged[0])
        elif is_pending(version, champion, on_version, requested.get(version, 0)):
            yield EvaluationKey(model, version)


class Evaluate(Reconciler[EvaluationKey]):
    """A version gets its report. One evaluation runs at a time: a model may need all the memory that there is."""

    kind = EvaluationKey.kind

    def __init__(self, store: Store, clients: Clients, evaluator: Evaluator, lease_seconds: float) -> None:
        self.store, self.clients, self.evaluator = store, clients, evaluator
        self.lease_seconds = lease_seconds
        self._attempts: dict[EvaluationKey, Attempts] = {}
        """Of reports that are pending."""
        self._one_at_a_time = asyncio.Lock()
        self._exported: dict[str, int] = {}
        """By model, the version whose figure is in the metric."""

    @override
    async def pending(self) -> AsyncIterator[EvaluationKey | DataLoss]:
        async for model in self.clients.models():
            try:
                reported = await self.store.reported(model)
                for version in sorted(reported, reverse=True)[:EXPORT_TRIES]:
                    if await self._export_primary(model, version):
                        break
                async for key in pending_of(model, self.clients, self.store, reported):
                    yield key
            except DataLoss as error:
                yield error

    @override
    async def reconcile(self, key: EvaluationKey) -> float | None:
        async with self._one_at_a_time:
            subject = await self._subject(key)
            if not await self._is_pending(subject):
                self._attempts.pop(key, None)
                return None
            report = report_on(*subject)
            attempts = self._attempts_at(key, report.report_id)
            if attempts.rest_seconds:
                return attempts.rest_seconds
            return await self._attempt(report, attempts, await self.evaluator.collect(*subject))

    @override
    async def end(self, key: EvaluationKey, error: MillstreamError) -> bool:
        try:
            subject = await self._subject(key)
        except (NotFound, InvalidArgument):
            return True  # the registry does not know the version, so it needs no report
        if await self._is_pending(subject):
            await self._conclude(add_error(report_on(*subject), str(error)))
        return True

    async def _subject(self, key: EvaluationKey) -> Subject:
        version = await self.clients.version(key.model, key.version)
        champion = await self.clients.champion(key.model)
        return Subject(version, champion, await self.store.request_number(key.model, key.version))

    async def _is_pending(self, subject: Subject) -> bool:
        reports = await self.store.reports(subject.version.model, subject.version.version)
        for report in reports:
            if is_damaged(report):
                raise DataLoss(report.error)
        return is_pending(subject.version.version, subject.champion, reports, subject.request_number)

    def _attempts_at(self, key: EvaluationKey, report_id: str) -> Attempts:
        known = self._attempts.get(key)
        if known is None or known.report_id != report_id:
            known = self._attempts[key] = Attempts(self.store.blobs, report_id, self.lease_seconds)
        return known

    async def _attempt(self, report: EvaluationReport, attempts: Attempts, inputs: EvaluationInputs) -> float | None:
        """Claim an attempt and make the report, unless another replica does or too many attempts failed."""
        status = await attempts.status()
        if status.in_progress:
            return POLL_SECONDS
        if status.is_exhausted:
            await self._conclude(add_error(report, status.reason))
            return None
        if status.champion_reason:
            inputs = inputs.without_champion(status.champion_reason)
        number = status.newest + 1
        if not await attempts.leases.claim(number):
            return POLL_SECONDS
        async with attempts.leases.holding(number):
            failpoint("evaluator.claimed")
            try:
                await self._conclude(await self.evaluator.evaluate(inputs))
            except BaseException as error:
                await self._record(attempts, number, error)
                raise
        return None

    async def _record(self, attempts: Attempts, number: int, error: BaseException) -> None:
        """Why an attempt gave no report. SIGTERM, this machine, a store or service that is away: none is the version's."""
        if isinstance(error, MachineTrouble):
            attempts.rest()
        is_bug = isinstance(error, Exception) and not isinstance(error, MillstreamError)
        counts = is_bug or isinstance(error, MeasurementFailed)
        reason = error.text if isinstance(error, MillstreamError) else f"{type(error).__name__}: {error}"
        with suppress(MillstreamError):
            await attempts.end(number, reason, counts=counts, champion=isinstance(error, ChampionDied))

    async def _export_primary(self, model: str, version: int) -> bool:
        """Show the figure of a version, unless it was not measured or a newer one's is shown; returns whether it was."""
        measured = [report for report in await self.store.reports(model, version) if report.metrics]
        if measured and version >= self._exported.get(model, 0):
            self._exported[model] = version
            metrics.PRIMARY.labels(model).set(newest_of(measured).metrics[0].candidate)
        return bool(measured)

    async def _conclude(self, report: EvaluationReport) -> None:
        first = await self.store.put(report)
        self._attempts.pop(EvaluationKey(report.model, report.version), None)
        status = word_of(EvaluationReport.Status, first.status)
        if first.create_time == report.create_time:
            metrics.REPORTS.labels(status).inc()
        await self._export_primary(report.model, report.version)
        log.info("evaluated", extra={"model": first.model, "version": first.version, "status": status})


class FindChallengers(Reconciler[ChallengersKey]):
    """When a champion changes, the versions of its model that need another report are queued."""

    kind = ChallengersKey.kind

    def __init__(self, store: Store, clients: Clients, work: Work) -> None:
        self.store, self.clients, self.work = store, clients, work

    @override
    async def pending(self) -> AsyncIterator[ChallengersKey]:
        # The comparison of Evaluate finds every pending report by itself.
        nothing: tuple[ChallengersKey, ...] = ()
        for key in nothing:
            yield key

    @override
    async def reconcile(self, key: ChallengersKey) -> float | None:
        again = None
        async for found in pending_of(key.model, self.clients, self.store):
            again = LOOK_AGAIN_SECONDS  # so the change of champion stays open until each challenger has its report
            if not isinstance(found, DataLoss):  # the comparison of Evaluate reports it
                self.work.add(found)
        return again

    @override
    async def end(self, key: ChallengersKey, error: MillstreamError) -> bool:
        # There is nothing to store: each version's evaluation has an end of its own.
        log.warning("challengers not found", extra={"model": key.model, "error": str(error)})
        return False
