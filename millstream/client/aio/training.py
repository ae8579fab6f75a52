"""Training runs."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from millstream.client.aio.connection import Connection
from millstream.client.aio.pages import pages
from millstream.client.inputs import struct
from millstream.client.shared import PAGE, WatchDeadline, new_request_id
from millstream.errors import Unavailable
from millstream.states import RUN_ENDED
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec


class Training(Connection):
    """Calls trainer."""

    async def train(
        self,
        model: str,
        *,
        dataset_number: int = 0,
        preset: str = "",
        config: Mapping[str, Any] | None = None,
        request_id: str = "",
    ) -> TrainingRun:
        """Create a run of a declared model on a snapshot of its dataset (`dataset_number` 0: the newest).

        `preset` "": that of the model's spec. If `preset` or `config` is given, `config` replaces that of the spec.
        Raises NotFound for an unknown model or snapshot, and InvalidArgument for a wrong preset or field of the config.
        """
        wanted = TrainingRunSpec(model=model, dataset_number=dataset_number, preset=preset)
        if config is not None:
            wanted.config.CopyFrom(struct(config, "config"))
        request = training.CreateTrainingRunRequest(request_id=request_id or new_request_id(), spec=wanted)
        return (await self._training.CreateTrainingRun(request)).run

    async def run(self, run_id: str) -> TrainingRun:
        """A run with its state, progress and metrics. Raises NotFound."""
        return (await self._training.GetTrainingRun(training.GetTrainingRunRequest(run_id=run_id))).run

    async def runs(
        self,
        model: str = "",
        states: Sequence["TrainingRun.State.ValueType"] = (),
    ) -> AsyncIterator[TrainingRun]:
        """Runs, newest first. `model` "": of every model; `states` empty: in any state."""
        request = training.ListTrainingRunsRequest(model=model, states=states, page_size=PAGE)
        async for page in pages(self._training.ListTrainingRuns, request):
            for found in page.runs:
                yield found

    async def watch_run(self, run_id: str, timeout: float | None = None) -> AsyncIterator[TrainingRun]:
        """The run now and at each change, until it has ended. A broken stream is opened again.

        `timeout` is in seconds, None: no limit. Raises DeadlineExceeded after it, and Unavailable after 30 s without an
        answer; the run itself goes on.
        """
        deadline = WatchDeadline(timeout, f"training run {run_id} has not ended")
        request = training.WatchTrainingRunRequest(run_id=run_id)
        while True:
            try:
                async for response in self._training.WatchTrainingRun(request, timeout=deadline.remaining()):
                    deadline.answered()
                    yield response.run
                    if response.run.state in RUN_ENDED:
                        return
                await asyncio.sleep(deadline.backoff())
            except Unavailable as error:
                await asyncio.sleep(deadline.backoff(error))

    async def wait_run(self, run_id: str, timeout: float | None = None) -> TrainingRun:
        """The run once it has ended: succeeded, failed or cancelled (see `state` and `reason`).

        `timeout` and errors as for watch_run().
        """
        newest = TrainingRun()
        async for each in self.watch_run(run_id, timeout):
            newest = each
        return newest

    async def cancel_run(self, run_id: str, reason: str = "") -> TrainingRun:
        """Cancel a run; `reason` is kept with it. Raises FailedPrecondition for a run that has ended."""
        request = training.CancelTrainingRunRequest(run_id=run_id, reason=reason)
        return (await self._training.CancelTrainingRun(request)).run

    async def run_log(self, run_id: str, follow: bool = False) -> AsyncIterator[training.ReadTrainingLogResponse]:
        """What the run's workers printed, as chunks of bytes with the attempt's number; with `follow` until the run ends."""
        request = training.ReadTrainingLogRequest(run_id=run_id, follow=follow)
        async for part in self._training.ReadTrainingLog(request):
            yield part
