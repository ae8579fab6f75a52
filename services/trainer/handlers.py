"""The work that each event queues."""

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.registry.v1.events_pb2 import ModelApplied
from millstream.training.v1 import events_pb2 as events
from servicekit.work.keys import Handlers
from services.trainer.automatic import AutomaticKey
from services.trainer.reconcile import RunKey

HANDLERS: Handlers = {
    SnapshotCreated: lambda event: [AutomaticKey(event.dataset)],
    ModelApplied: lambda event: [AutomaticKey(event.dataset, event.model)],
    events.TrainingRunCreated: lambda event: [RunKey(event.run_id)],
    events.TrainingRunStarted: lambda event: [RunKey(event.run_id)],
    events.TrainingRunSucceeded: lambda event: [RunKey(event.run_id)],
    events.TrainingRunFailed: lambda event: [RunKey(event.run_id)],
    events.TrainingRunCancelled: lambda event: [RunKey(event.run_id)],
}
