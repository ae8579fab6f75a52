"""What an event means to the trainer."""

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.registry.v1.events_pb2 import ModelApplied
from millstream.training.v1 import events_pb2 as events
from servicekit.work.queue import Handlers, Key

HANDLERS: Handlers = {
    SnapshotCreated: lambda event: [Key("automatic", event.dataset)],
    ModelApplied: lambda event: [Key("automatic", event.dataset)],
    events.TrainingRunCreated: lambda event: [Key("run", event.run_id)],
    events.TrainingRunStarted: lambda event: [Key("run", event.run_id)],
    events.TrainingRunSucceeded: lambda event: [Key("run", event.run_id)],
    events.TrainingRunFailed: lambda event: [Key("run", event.run_id)],
    events.TrainingRunCancelled: lambda event: [Key("run", event.run_id)],
}
