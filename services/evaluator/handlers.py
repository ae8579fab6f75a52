"""What an event means here."""

from collections.abc import Iterable

from millstream.defaults import CHAMPION
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from servicekit.work.queue import Handlers, Key


def _registered(event: ModelVersionRegistered) -> Iterable[Key]:
    return [Key("evaluation", f"{event.model}/{event.version}")]


def _moved(event: AliasMoved) -> Iterable[Key]:
    """Another champion may owe its challengers another report; other aliases are compared with nobody."""
    return [Key("model", event.model)] if event.alias == CHAMPION else []


HANDLERS: Handlers = {ModelVersionRegistered: _registered, AliasMoved: _moved}
