"""The flow: which service acts on which fact. Whoever stores a fact leaves a marker for each (open_work.py)."""

from collections.abc import Mapping

from google.protobuf.message import Message as Proto

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import CHAMPION
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied, ModelVersionRegistered
from millstream.training.v1.events_pb2 import TrainingRunCreated, TrainingRunSucceeded

ACTS_ON: Mapping[type[Proto], tuple[str, ...]] = {
    Import: ("dataprep",),
    SnapshotCreated: ("trainer",),
    TrainingRunCreated: ("trainer",),
    TrainingRunSucceeded: ("registry",),
    ModelApplied: ("trainer", "registry"),
    ModelVersionRegistered: ("evaluator",),
    EvaluationRequest: ("evaluator",),
    EvaluationCompleted: ("registry",),
    AliasMoved: ("registry", "evaluator"),
}
"""Only facts that leave work to be done. Other events are hints that save a wait: their work is open already.

Inference is not here: each of its replicas has to serve for itself what the registry names, so none can do it for all.
"""


def services_that_act_on(fact: Proto) -> tuple[str, ...]:
    """The services that a fact gives work."""
    # Automatic promotion moves champion alone, and versions are compared with it alone.
    if isinstance(fact, AliasMoved) and fact.alias != CHAMPION:
        return ()
    return ACTS_ON.get(type(fact), ())
