"""The work that each fact queues."""

from collections.abc import Iterable

from millstream.defaults import CHAMPION
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.registry.v1.events_pb2 import AliasMoved, ModelVersionRegistered
from servicekit.work.keys import Handlers, Key
from services.evaluator.reconcile import ChallengersKey, EvaluationKey


def _registered(event: ModelVersionRegistered) -> Iterable[Key]:
    return [EvaluationKey(event.model, event.version)]


def _moved(event: AliasMoved) -> Iterable[Key]:
    """With another champion its challengers may need another report; no version is compared with other aliases."""
    return [ChallengersKey(event.model)] if event.alias == CHAMPION else []


def _requested(request: EvaluationRequest) -> Iterable[Key]:
    return [EvaluationKey(request.model, request.version)]


HANDLERS: Handlers = {ModelVersionRegistered: _registered, EvaluationRequest: _requested, AliasMoved: _moved}
