"""What an event means to the registry."""

from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from millstream.registry.v1.events_pb2 import AliasMoved
from millstream.training.v1.events_pb2 import TrainingRunSucceeded
from servicekit.work.queue import Handlers, Key

HANDLERS: Handlers = {
    TrainingRunSucceeded: lambda event: [Key("version", event.run_id)],
    EvaluationCompleted: lambda event: [Key("promotion", event.model)],
    # A release may let a promotion through that waited.
    AliasMoved: lambda event: [Key("promotion", event.model)],
}
