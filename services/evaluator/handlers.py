"""The work that each event queues."""

from collections.abc import Iterable

from millstream.defaults import CHAMPION
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from servicekit.work.keys import Handlers, Key
from services.evaluator.reconcile import ChallengersKey, EvaluationKey


def _registered(event: ModelVersionRegistered) -> Iterable[Key]:
    return [EvaluationKey(event.model, event.version)]


def _moved(event: AliasMoved) -> Iterable[Key]:
    """With another champion its challengers may need another report; no version is compared with other aliases."""
    return [ChallengersKey(event.model)] if event.alias == CHAMPION else []


HANDLERS: Handlers = {ModelVersionRegistered: _registered, AliasMoved: _moved}
