"""Trains one run: claims an attempt, fits the recipe, and leaves an artifact and the outcome *Succeeded*.

`python -m services.trainer.worker RUN_ID`. Exit code 0: the run has an outcome; 75: it has none yet, start another worker.
It writes only under its own attempt, content-addressed artifacts, its outbox markers and *Succeeded*; it needs no bus and
no other service.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from google.protobuf.json_format import MessageToDict, ParseDict
from pydantic import ValidationError

from millstream import errors
from millstream.training.v1.attempt_pb2 import AttemptFailure, RunOutcome, RunRequest
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import Progress, TrainingRun
from recipekit.catalog import Catalog, UnknownRecipe
from recipekit.hardware import processor
from recipekit.predictor import write_golden
from recipekit.run import Data, Stopped
from recipekit.spec import Config
from servicekit.blobs import artifacts
from servicekit.blobs.parts import read_split
from servicekit.build_info import code, package_versions
from servicekit.facts.outbox import Outbox
from servicekit.failpoints import crashpoint
from servicekit.logs import fields, setup_logs
from servicekit.runtime.backends import open_blobs
from services.trainer.checkpoints import StoredRun
from services.trainer.settings import WorkerSettings
from services.trainer.store import FACTS, MOST_FAILURES, Store, now

log = logging.getLogger(__name__)
ENDED, AGAIN = 0, 75
BEAT_SECONDS = 1.0
STOP_SECONDS = 30.0
LOG_TAIL = 4000
_PASSING = (errors.Unavailable, errors.Overloaded, errors.DeadlineExceeded, errors.Conflict)


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
        self.run = StoredRun(store, request.run_id, number, folder, settings.require_exact)
        self.catalog = Catalog(settings.recipes.split(","))
        self.log = _CapturedLog(folder / "output.log")
        self.began = time.monotonic()
        self.saying = asyncio.Lock()
        self.before = 0.0
        """Seconds that earlier attempts have trained."""

    async def carry_out(self) -> int:
        """Train, and answer the process's exit code."""
        beating = asyncio.create_task(self._beat())
        training = asyncio.create_task(self._train())
        try:
            async with self.store.attempts(self.request.run_id).holding(self.number):
                done, _ = await asyncio.wait([beating, training], return_when=asyncio.FIRST_COMPLETED)
                if training not in done:
                    # Asked to stop: the recipe saves a checkpoint at its next step; one that hangs is left behind.
                    await asyncio.wait([training], timeout=STOP_SECONDS)
                code = await self._verdict(training)
                async with self.saying:
                    # Not in the middle: what a cancelled beat is storing would land after the last word.
                    beating.cancel()
                with suppress(errors.MillstreamError):
                    await self._say()
                return code
        finally:
            self.log.close()

    async def _verdict(self, training: "asyncio.Task[None]") -> int:
        run_id = self.request.run_id
        try:
            if training.done():
                await training
        except (Stopped, *_PASSING) as error:
            log.info("attempt ends early", extra={"because": repr(error)})
        except Exception as error:
            log.exception("attempt failed")
            # A run that has failed is not looked at again, so its last word comes first.
            with suppress(errors.MillstreamError):
                await self._say()
            await self.store.fail(run_id, self.number, self._failure(error))
        return ENDED if await self.store.outcome(run_id) else AGAIN

    async def _train(self) -> None:
        spec = self.request.spec
        recipe = self.catalog.spec(spec.recipe)
        config = recipe.configure(spec.preset, MessageToDict(spec.config))
        blobs, snapshot = self.store.blobs, self.request.snapshot
        train, validation = [await read_split(blobs, snapshot, split) for split in ("train", "validation")]
        log.info("training", extra={"recipe": spec.recipe, "train_rows": len(train), "config": config.model_dump()})
        fit = await asyncio.to_thread(self.catalog.fit, spec.recipe)
        await asyncio.to_thread(fit, config, Data(train, validation), self.run)
        if self.run.stop_requested:
            raise Stopped
        await asyncio.to_thread(write_golden, self.run.artifact, self.catalog, validation)
        crashpoint("worker.trained")
        artifact = await artifacts.store(blobs, self.run.artifact)
        crashpoint("worker.artifact-stored")
        outcome = RunOutcome(run_id=self.request.run_id, model=spec.model, state=TrainingRun.STATE_SUCCEEDED)
        outcome.artifact.CopyFrom(artifact)
        outcome.lineage.CopyFrom(self._lineage(config))
        outcome.metrics.update(self.run.metrics)
        # A run that has ended is not looked at again, so its last word comes first.
        await self._say()
        if not await self.store.end(outcome):
            log.info("the run has another outcome already")
        crashpoint("worker.succeeded")

    def _lineage(self, config: Config) -> Lineage:
        spec, here = self.request.spec, code()
        lineage = Lineage(run_id=self.request.run_id, dataset=spec.dataset, dataset_number=spec.dataset_number)
        lineage.snapshot_id, lineage.recipe, lineage.seed = spec.snapshot_id, spec.recipe, config.seed
        lineage.code_commit, lineage.code_dirty = here.commit, here.dirty
        lineage.packages.update(package_versions())
        lineage.hardware, lineage.attempts = processor(), self.number
        lineage.numerics.CopyFrom(self.run.fixed.numerics)
        ParseDict(config.model_dump(mode="json"), lineage.config)
        if self.run.is_elsewhere:
            lineage.inexact_from_step = self.run.resumed_from
        return lineage

    async def _beat(self) -> None:
        """Each second: say how far it is, ship the log, and look whether to stop. Ends once it must stop."""
        run_id = self.request.run_id
        began = False
        while not self.run.stop_requested:
            with suppress(errors.MillstreamError):
                if not began:
                    earlier = await self.store.progress(run_id, self.number - 1)
                    self.before = earlier.elapsed.ToNanoseconds() / 1e9 if earlier else 0.0
                    began = True
                await self._say()
                newest = await self.store.attempts(run_id).newest()
                if newest > self.number or await self.store.outcome(run_id):
                    self.stop.set()
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_SECONDS):
                    await self.stop.wait()
                self.run.stop_requested = True

    async def _say(self) -> None:
        async with self.saying:
            await self._say_alone()

    async def _say_alone(self) -> None:
        said = Progress(time=now())
        elapsed = time.monotonic() - self.began
        said.elapsed.FromNanoseconds(int((self.before + elapsed) * 1e9))
        if progress := self.run.progress:
            said.step, said.total_steps, said.epoch, said.loss = (
                progress.step,
                progress.total_steps,
                progress.epoch,
                progress.loss,
            )
            said.learning_rate, said.gradient_norm = progress.learning_rate, progress.gradient_norm
            said.rows_per_second, said.tokens_per_second = progress.rows_per_second, progress.tokens_per_second
            said.metrics.update(self.run.metrics)
            done = progress.step - self.run.resumed_from
            if done > 0:
                left = elapsed / done * (progress.total_steps - progress.step)
                said.remaining.FromNanoseconds(int(max(0.0, left) * 1e9))
        await self.store.report(self.request.run_id, self.number, said)
        for number, chunk in self.log.unshipped():
            await self.store.add_log(self.request.run_id, self.number, number, chunk)
            self.log.shipped()

    def _failure(self, error: Exception) -> AttemptFailure:
        text = error.text if isinstance(error, errors.MillstreamError) else str(error)
        invalid = isinstance(
            error, errors.InvalidArgument | errors.FailedPrecondition | UnknownRecipe | ValidationError
        )
        failure = AttemptFailure(error_class=type(error).__name__, message=text, invalid=invalid)
        failure.traceback = "".join(traceback.format_exception(error))
        failure.log_tail = self.log.tail()
        return failure


class _CapturedLog:
    """Takes over this process's stdout and stderr, and hands out what was printed in numbered chunks."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.chunks = path, 0, 0
        self.pending: list[tuple[int, bytes]] = []
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._outside = os.dup(2)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)

    def unshipped(self) -> list[tuple[int, bytes]]:
        """The same chunk again until shipped() says that it is stored."""
        if not self.pending:
            with self.path.open("rb") as file:
                file.seek(self.read)
                data = file.read()
            if data:
                self.read += len(data)
                self.chunks += 1
                self.pending = [(self.chunks, data)]
        return self.pending

    def shipped(self) -> None:
        self.pending = []

    def tail(self) -> str:
        return self.path.read_bytes()[-LOG_TAIL:].decode(errors="replace")

    def close(self) -> None:
        os.dup2(self._outside, 1)
        os.dup2(self._outside, 2)


async def claim(store: Store, run_id: str, stop: asyncio.Event) -> int:
    """Claim the next attempt once nobody alive holds one; 0: the run has an outcome or the worker was asked to stop.

    Waits without torch and without a slot. Failures that end the run are the trainer's to act on.
    """
    attempts = store.attempts(run_id)
    while not stop.is_set() and not await store.outcome(run_id):
        newest = await attempts.newest()
        # Before what a worker says last: whoever is dead by now has said it already.
        alive = bool(newest) and await attempts.is_alive(newest)
        failures = await store.failures(run_id, newest)
        ends = len(failures) >= MOST_FAILURES or any(failure.invalid for failure in failures)
        failed = newest and await store.failure(run_id, newest)
        if not ends and (failed or not alive):
            if await store.outcome(run_id):
                break
            if await attempts.claim(newest + 1):
                crashpoint("worker.claimed")
                return newest + 1
        else:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await stop.wait()
    return 0


async def main(run_id: str) -> int:
    settings = WorkerSettings.read()
    setup_logs("worker", settings.log_level)
    blobs = open_blobs(settings)
    store = Store(blobs, Outbox(blobs, None, "trainer", FACTS), settings.lease_seconds)
    request = await store.request(run_id)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    number = await claim(store, run_id, stop)
    if not number:
        return ENDED if await store.outcome(run_id) else AGAIN
    folder = Path(settings.state, "workers", f"{os.getpid()}.files")
    folder.mkdir(parents=True)
    try:
        with fields(run_id=run_id, attempt=str(number)):
            return await Attempt(store, request, number, settings, folder, stop).carry_out()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run_and_exit() -> None:
    """End at once: a recipe that hangs in native code would keep the loop and the interpreter from ending."""
    code_of_exit = await main(sys.argv[1])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code_of_exit)


if __name__ == "__main__":
    asyncio.run(run_and_exit())
