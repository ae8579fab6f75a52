# Derived from aio/training.py by `python tools/derive_client.py`: do not edit.
"""Models are trained."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from millstream.client.shared import PAGE, Patience, new_request_id, struct
from millstream.client.sync.connection import Connection
from millstream.client.sync.pages import pages
from millstream.errors import Unavailable
from millstream.states import RUN_ENDED
from millstream.training.v1 import training_service_pb2 as training
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec


class Training(Connection):
    """Calls trainer."""

    def train(
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
        return (self._training.CreateTrainingRun(request)).run

    def run(self, run_id: str) -> TrainingRun:
        return (self._training.GetTrainingRun(training.GetTrainingRunRequest(run_id=run_id))).run

    def runs(
        self,
        model: str = "",
        states: Sequence["TrainingRun.State.ValueType"] = (),
    ) -> Iterator[TrainingRun]:
        """Newest first; of every model and in any state unless told."""
        request = training.ListTrainingRunsRequest(model=model, states=states, page_size=PAGE)
        for page in pages(self._training.ListTrainingRuns, request):
            yield from page.runs

    def watch_run(self, run_id: str, timeout: float | None = None) -> Iterator[TrainingRun]:
        """The run now and at each change, until it has ended; goes on when the trainer restarts."""
        patience = Patience(timeout, f"the end of the training run {run_id}")
        request = training.WatchTrainingRunRequest(run_id=run_id)
        while True:
            try:
                for response in self._training.WatchTrainingRun(request, timeout=patience.left()):
                    patience.heard()
                    yield response.run
                    if response.run.state in RUN_ENDED:
                        return
                time.sleep(patience.pause())
            except Unavailable as error:
                time.sleep(patience.pause(error))

    def wait_run(self, run_id: str, timeout: float | None = None) -> TrainingRun:
        """The run once it has ended, be it failed or cancelled. Raises DeadlineExceeded."""
        newest = TrainingRun()
        for each in self.watch_run(run_id, timeout):
            newest = each
        return newest

    def cancel_run(self, run_id: str, reason: str = "") -> TrainingRun:
        request = training.CancelTrainingRunRequest(run_id=run_id, reason=reason)
        return (self._training.CancelTrainingRun(request)).run

    def run_log(self, run_id: str, follow: bool = False) -> Iterator[training.ReadTrainingLogResponse]:
        """What the run's workers printed; with `follow` until the run has ended."""
        request = training.ReadTrainingLogRequest(run_id=run_id, follow=follow)
        yield from self._training.ReadTrainingLog(request)
