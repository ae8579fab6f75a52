"""Which key each event queues."""

from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from servicekit.work.keys import Handlers
from services.inference.reconcile import ModelKey

HANDLERS: Handlers = {
    AliasMoved: lambda event: [ModelKey(event.model)],
    ModelApplied: lambda event: [ModelKey(event.model)],
}
