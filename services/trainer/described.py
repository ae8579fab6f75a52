"""A run as callers see it, from the objects that state it."""

from millstream.training.v1.attempt_pb2 import RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import TrainingRun


def describe(run: TrainingRun, request: RunRequest) -> None:
    """What its request says of a run."""
    run.spec.CopyFrom(request.spec)
    run.create_time.CopyFrom(request.time)
    run.actor, run.automatic = request.actor, request.automatic


def fill_in(run: TrainingRun, outcome: RunOutcome) -> None:
    """How it ended."""
    run.state, run.reason = outcome.state, outcome.reason
    run.end_time.CopyFrom(outcome.time)
    if outcome.state == TrainingRun.STATE_SUCCEEDED:
        run.artifact.CopyFrom(outcome.artifact)
        run.lineage.CopyFrom(outcome.lineage)
        run.metrics.update(outcome.metrics)
