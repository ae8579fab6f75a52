"""What an event means here."""

from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from servicekit.work.queue import Handlers, Key

HANDLERS: Handlers = {
    AliasMoved: lambda event: [Key("model", event.model)],
    ModelApplied: lambda event: [Key("model", event.model)],
}
