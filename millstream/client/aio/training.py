"""Models are trained."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from millstream.client.aio.connection import Connection
from millstream.client.aio.pages import pages
from millstream.client.shared import PAGE, Patience, new_request_id, struct
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
        """Start a run of a declared model on its dataset's newest snapshot, or on the one of that number.

        `preset` and `config`, where either is given, stand together for those of the model's spec.
        """
        wanted = TrainingRunSpec(model=model, dataset_number=dataset_number, preset=preset)
        if config is not None:
            wanted.config.CopyFrom(struct(config))
        request = training.CreateTrainingRunRequest(request_id=request_id or new_request_id(), spec=wanted)
        return (await self._training.CreateTrainingRun(request)).run

    async def run(self, run_id: str) -> TrainingRun:
        return (await self._training.GetTrainingRun(training.GetTrainingRunRequest(run_id=run_id))).run

    async def runs(
        self,
        model: str = "",
        states: Sequence["TrainingRun.State.ValueType"] = (),
    ) -> AsyncIterator[TrainingRun]:
        """Newest first; of every model and in any state unless told."""
        request = training.ListTrainingRunsRequest(model=model, states=states, page_size=PAGE)
        async for page in pages(self._training.ListTrainingRuns, request):
            for found in page.runs:
                yield found

    async def watch_run(self, run_id: str, timeout: float | None = None) -> AsyncIterator[TrainingRun]:
        """The run now and at each change, until it has ended; goes on when the trainer restarts."""
        patience = Patience(timeout, f"the end of the training run {run_id}")
        request = training.WatchTrainingRunRequest(run_id=run_id)
        while True:
            try:
                async for response in self._training.WatchTrainingRun(request, timeout=patience.left()):
                    patience.heard()
                    yield response.run
                    if response.run.state in RUN_ENDED:
                        return
                await asyncio.sleep(patience.pause())
            except Unavailable as error:
                await asyncio.sleep(patience.pause(error))

    async def wait_run(self, run_id: str, timeout: float | None = None) -> TrainingRun:
        """The run once it has ended, be it failed or cancelled. Raises DeadlineExceeded."""
        newest = TrainingRun()
        async for each in self.watch_run(run_id, timeout):
            newest = each
        return newest

    async def cancel_run(self, run_id: str, reason: str = "") -> TrainingRun:
        request = training.CancelTrainingRunRequest(run_id=run_id, reason=reason)
        return (await self._training.CancelTrainingRun(request)).run

    async def run_log(self, run_id: str, follow: bool = False) -> AsyncIterator[training.ReadTrainingLogResponse]:
        """What the run's workers printed; with `follow` until the run has ended."""
        request = training.ReadTrainingLogRequest(run_id=run_id, follow=follow)
        async for part in self._training.ReadTrainingLog(request):
            yield part
