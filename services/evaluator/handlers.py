"""What an event means here."""

from collections.abc import Iterable

from millstream.defaults import CHAMPION
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from servicekit.work.keys import Handlers, Key
from services.evaluator.reconcile import ChallengersKey, EvaluationKey


def _registered(event: ModelVersionRegistered) -> Iterable[Key]:
    return [EvaluationKey(event.model, event.version)]


def _moved(event: AliasMoved) -> Iterable[Key]:
    """Another champion may owe its challengers another report; other aliases are compared with nobody."""
    return [ChallengersKey(event.model)] if event.alias == CHAMPION else []


HANDLERS: Handlers = {ModelVersionRegistered: _registered, AliasMoved: _moved}
