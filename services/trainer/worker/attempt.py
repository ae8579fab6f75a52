"""One attempt at a run: training, heartbeat, progress, the outcome."""

import asyncio
import logging
import time
import traceback
from contextlib import suppress
from functools import partial
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict
from pydantic import ValidationError

from millstream import errors
from millstream.timestamps import duration, now, seconds_of
from millstream.training.v1.attempt_pb2 import AttemptEnd, AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import RunProgress, TrainingRun
from recipekit.catalog import Catalog
from recipekit.cleaning import Cleaning
from recipekit.hardware import processor
from recipekit.predictor import write_cleaning, write_golden
from recipekit.run import Data, Stopped
from recipekit.spec import BadConfig, BadData, Config
from servicekit.blobs import artifacts
from servicekit.blobs.parts import read_split
from servicekit.build_info import build_info, package_versions
from servicekit.failpoints import failpoint
from services.trainer.checkpoints import newest_step
from services.trainer.columns import check_columns, check_rows
from services.trainer.launchers.port import AGAIN, ENDED
from services.trainer.launchers.worker_folder import OUTPUT
from services.trainer.store import Store
from services.trainer.trouble import is_trouble
from services.trainer.verdict import verdict
from services.trainer.worker.origin import origin_here
from services.trainer.worker.output import CapturedLog
from services.trainer.worker.run import StoredRun
from services.trainer.worker.settings import WorkerSettings

log = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
STOP_SECONDS = 30.0
"""For a checkpoint, once the worker is asked to stop."""
_INVALID = (errors.InvalidArgument, errors.FailedPrecondition, BadConfig, BadData, ValidationError)
"""Errors of the request itself: a retry will not help."""


class Attempt:
    """One attempt at a run, claimed by this process."""

    def __init__(
        self,
        store: Store,
        request: RunRequest,
        number: int,
        settings: WorkerSettings,
        folder: Path,
        stop: asyncio.Event,
    ) -> None:
        self.store, self.request, self.number, self.stop = store, request, number, stop
        self.catalog = Catalog(settings.recipes.split(","))
        origin = partial(origin_here, self.catalog, request.spec.recipe)
        self.run = StoredRun(store, request.run_id, number, folder, origin, settings.require_exact)
        self.log = CapturedLog(folder / OUTPUT)
        self.began = time.monotonic()
        self.earlier_seconds = 0.0
        """Training time of earlier attempts."""
        self._report_lock = asyncio.Lock()

    async def carry_out(self) -> int:
        """Train, and return the process's exit code."""
        reporting = asyncio.create_task(self._report_until_stopped())
        training = asyncio.create_task(self._train())
        try:
            async with self.store.attempts(self.request.run_id).holding(self.number):
                done, _ = await asyncio.wait([reporting, training], return_when=asyncio.FIRST_COMPLETED)
                if training not in done:
                    # Asked to stop: the recipe saves a checkpoint at its next step; one that hangs is left behind.
                    await asyncio.wait([training], timeout=STOP_SECONDS)
                code = await self._exit_code(training)
                async with self._report_lock:
                    # Cancelled between reports only: a put still in progress could replace the last report below.
                    reporting.cancel()
                with suppress(errors.MillstreamError):
                    await self._report()
                return code
        finally:
            self.log.close()

    async def _exit_code(self, training: "asyncio.Task[None]") -> int:
        run_id = self.request.run_id
        try:
            if training.done():
                await training
            else:
                await self._end(
                    AttemptEnd.CAUSE_STOPPED, f"it saved no checkpoint within {STOP_SECONDS:g} s of SIGTERM"
                )
        except Stopped:
            await self._end(AttemptEnd.CAUSE_STOPPED, "its worker was asked to stop")
        except Exception as error:
            log.exception("attempt failed")
            # Nothing is reported of a run that has failed, so the last report comes first.
            with suppress(errors.MillstreamError):
                await self._report()
            await self._record(error)
        return ENDED if await self.store.outcome(run_id) else AGAIN

    async def _record(self, error: Exception) -> None:
        """Store what an error means: a trouble, a checkpoint that is of no use, or a failure."""
        invalid = isinstance(error, _INVALID)
        if is_trouble(error):
            await self._end(AttemptEnd.CAUSE_TROUBLE, _line(error))
        elif self.run.untried and not invalid:
            reason = f"it could not go on from its checkpoint at step {self.run.resumed_from}: {_line(error)}"
            await self._end(AttemptEnd.CAUSE_TROUBLE, reason, unusable=self.run.untried)
        else:
            failure = AttemptFailure(error_class=type(error).__name__, message=_text(error), invalid=invalid)
            failure.step = self.run.progress.step if self.run.progress else self.run.resumed_from
            failure.traceback = "".join(traceback.format_exception(error))
            failure.log_tail = self.log.tail()
            await self.store.fail(self.request.run_id, self.number, failure)

    async def _end(self, cause: "AttemptEnd.Cause.ValueType", reason: str, unusable: str = "") -> None:
        log.info("attempt ended early", extra={"reason": reason})
        end = AttemptEnd(cause=cause, reason=reason, unusable_checkpoint=unusable, log_tail=self.log.tail())
        with suppress(errors.MillstreamError):
            end.checkpoint_step = await newest_step(self.store.blobs, self.request.run_id)
            end.elapsed.CopyFrom(self._progress().elapsed)
            await self.store.end_attempt(self.request.run_id, self.number, end)

    async def _train(self) -> None:
        spec = self.request.spec
        config = self.catalog.configure(spec.recipe, spec.preset, MessageToDict(spec.config))
        blobs, snapshot, recipe = self.store.blobs, self.request.snapshot, self.catalog.spec(spec.recipe)
        check_columns(recipe, snapshot)
        train, validation = [await read_split(blobs, snapshot, split) for split in ("train", "validation")]
        for split, rows in (("train", train), ("validation", validation)):
            await asyncio.to_thread(check_rows, recipe, snapshot, split, rows)
        log.info("training", extra={"recipe": spec.recipe, "train_rows": len(train), "config": config.model_dump()})
        fit = await asyncio.to_thread(self.catalog.fit, spec.recipe)
        await asyncio.to_thread(fit, config, Data(train, validation), self.run)
        self.run.untried = ""
        if self.run.stop_requested:
            raise Stopped
        options = MessageToDict(snapshot.spec.cleaning, preserving_proto_field_name=True)
        write_cleaning(self.run.artifact, Cleaning.of(options))
        await asyncio.to_thread(write_golden, self.run.artifact, self.catalog, validation)
        failpoint("worker.trained")
        artifact = await artifacts.store(blobs, self.run.artifact)
        failpoint("worker.artifact-stored")
        outcome = RunOutcome(run_id=self.request.run_id, model=spec.model, state=TrainingRun.STATE_SUCCEEDED)
        outcome.artifact.CopyFrom(artifact)
        outcome.lineage.CopyFrom(self._lineage(config))
        outcome.metrics.update(self.run.metrics)
        # Its readers stop once a run has ended, so the last report comes first.
        await self._report()
        if not await self.store.end(outcome):
            log.info("the run has another outcome already")
        failpoint("worker.succeeded")

    def _lineage(self, config: Config) -> Lineage:
        spec, here = self.request.spec, build_info()
        lineage = Lineage(run_id=self.request.run_id, dataset=spec.dataset, dataset_number=spec.dataset_number)
        lineage.snapshot_id, lineage.recipe, lineage.seed = spec.snapshot_id, spec.recipe, config.seed
        lineage.code_commit, lineage.code_dirty = here.commit, here.dirty
        lineage.packages.update(package_versions())
        lineage.hardware, lineage.attempts = processor(), self.number
        lineage.numerics.CopyFrom(self.run.fixed.numerics)
        ParseDict(config.model_dump(mode="json"), lineage.config)
        if departures := self.run.departures:
            lineage.inexact_from_step = departures[0].step
            lineage.departures.extend(f"from step {step} on: {difference}" for step, difference in departures)
        return lineage

    async def _report_until_stopped(self) -> None:
        """Report progress and log once a second, until SIGTERM, an outcome of the run or a newer attempt ends this one."""
        run_id = self.request.run_id
        knows_earlier = False
        while not self.run.stop_requested:
            with suppress(errors.MillstreamError):
                if not knows_earlier:
                    earlier = await self.store.progress(run_id, self.number - 1)
                    self.earlier_seconds = seconds_of(earlier.elapsed) if earlier else 0.0
                    knows_earlier = True
                await self._report()
                newest = await self.store.attempts(run_id).newest()
                if newest > self.number or await self.store.outcome(run_id):
                    self.stop.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self.stop.wait()
                self.run.stop_requested = True

    async def _report(self) -> None:
        """Store the progress and what was printed since the last report."""
        async with self._report_lock:
            await self.store.report(self.request.run_id, self.number, self._progress())
            for number, chunk in self.log.unshipped():
                await self.store.add_log(self.request.run_id, self.number, number, chunk)
                self.log.shipped()

    def _progress(self) -> RunProgress:
        elapsed = time.monotonic() - self.began
        message = RunProgress(time=now(), elapsed=duration(self.earlier_seconds + elapsed))
        if progress := self.run.progress:
            message.step, message.total_steps = progress.step, progress.total_steps
            message.epoch, message.loss = progress.epoch, progress.loss
            message.learning_rate, message.gradient_norm = progress.learning_rate, progress.gradient_norm
            message.rows_per_second, message.tokens_per_second = progress.rows_per_second, progress.tokens_per_second
            message.metrics.update(self.run.metrics)
            if (left := self.run.remaining.seconds(progress.total_steps)) is not None:
                message.remaining.CopyFrom(duration(left))
        return message


def _text(error: Exception) -> str:
    return error.text if isinstance(error, errors.MillstreamError) else str(error)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {_text(error)}"


async def claim(store: Store, run_id: str, stop: asyncio.Event) -> int:
    """Claim the next attempt once no living worker holds one; 0: the run has an outcome, or the worker was asked to stop.

    Waits without torch and without a slot. It claims nothing after endings that end the run: the trainer ends it.
    """
    attempts = store.attempts(run_id)
    while not stop.is_set() and not await store.outcome(run_id):
        newest = await attempts.newest()
        # Read before the endings and outcome: a worker that is dead by now has stored its own already.
        alive = bool(newest) and await attempts.is_alive(newest)
        endings = await store.endings(run_id, newest)
        is_free = not alive or await store.ending(run_id, newest)
        if is_free and not verdict(endings):
            if await store.outcome(run_id):
                break
            if await attempts.claim(newest + 1):
                failpoint("worker.claimed")
                return newest + 1
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await stop.wait()
    return 0
