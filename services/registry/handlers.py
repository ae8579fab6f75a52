"""What an event means to the registry."""

from millrace.evaluation.v1.events_pb2 import EvaluationCompleted
from millrace.registry.v1.events_pb2 import AliasMoved
from millrace.training.v1.events_pb2 import TrainingRunSucceeded
from servicekit.work import Handlers, Key

HANDLERS: Handlers = {
    TrainingRunSucceeded: lambda event: [Key("version", event.run_id)],
    EvaluationCompleted: lambda event: [Key("promotion", event.model)],
    # A release may let a promotion through that waited.
    AliasMoved: lambda event: [Key("promotion", event.model)],
}
