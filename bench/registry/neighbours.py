"""What the registry asks while it is measured: a trainer whose runs have all succeeded, and an evaluator without reports.

`python -m bench.registry.neighbours PORT PARENT_PID` serves both. It keeps nothing: a run's id names its model.
"""

import asyncio
import signal
import sys

from grpc import aio

from millstream.evaluation.v1.evaluation_service_pb2 import ListEvaluationReportsRequest, ListEvaluationReportsResponse
from millstream.evaluation.v1.evaluation_service_pb2_grpc import add_EvaluationServiceServicer_to_server
from millstream.training.v1.attempt_pb2 import RunOutcome
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from millstream.training.v1.training_service_pb2 import (
    GetTrainingRunRequest,
    GetTrainingRunResponse,
    ListTrainingRunsRequest,
    ListTrainingRunsResponse,
)
from millstream.training.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server
from servicekit.children import end_with
from servicekit.ids import hash_of, new_id

SEPARATOR = "--"
"""Between the model and the rest of a run's id."""


def new_run(model: str) -> RunOutcome:
    """How another run of the model has ended, with as much as a run of a real recipe says."""
    run_id = f"{model}{SEPARATOR}{new_id()}"
    lineage = Lineage(run_id=run_id, dataset="words", dataset_number=1, recipe="toy_words", seed=42, attempts=1)
    lineage.packages.update({f"package-{number}": "1.2.3" for number in range(10)})
    outcome = RunOutcome(run_id=run_id, model=model, state=TrainingRun.STATE_SUCCEEDED, metrics={"accuracy": 0.9})
    outcome.artifact.digest = hash_of(run_id)
    outcome.lineage.CopyFrom(lineage)
    return outcome


class Trainer:
    """Answers what the registry asks the trainer."""

    async def GetTrainingRun(self, request: GetTrainingRunRequest, _: object) -> GetTrainingRunResponse:
        """The run of the id, which has succeeded."""
        model = request.run_id.partition(SEPARATOR)[0]
        outcome = new_run(model)
        run = TrainingRun(run_id=request.run_id, spec=TrainingRunSpec(model=model), state=outcome.state)
        run.artifact.CopyFrom(outcome.artifact)
        run.lineage.CopyFrom(outcome.lineage)
        run.lineage.run_id = request.run_id
        run.metrics.update(outcome.metrics)
        return GetTrainingRunResponse(run=run)

    async def ListTrainingRuns(self, request: ListTrainingRunsRequest, _: object) -> ListTrainingRunsResponse:
        """None: every version comes by its event."""
        return ListTrainingRunsResponse()


class Evaluator:
    """Answers what the registry asks the evaluator."""

    async def ListEvaluationReports(
        self, request: ListEvaluationReportsRequest, _: object
    ) -> ListEvaluationReportsResponse:
        """None: aliases are moved by hand."""
        return ListEvaluationReportsResponse()


class OnlyWhatIsAsked:
    """A servicer without the methods that nobody calls here."""

    def __init__(self, inner: object) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name, None)


async def main(port: str) -> None:
    """Serve until the process is ended."""
    server = aio.server()
    add_TrainingServiceServicer_to_server(OnlyWhatIsAsked(Trainer()), server)  # type: ignore[arg-type]
    add_EvaluationServiceServicer_to_server(OnlyWhatIsAsked(Evaluator()), server)  # type: ignore[arg-type]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    end_with(int(sys.argv[2]), signal.SIGKILL)
    asyncio.run(main(sys.argv[1]))
