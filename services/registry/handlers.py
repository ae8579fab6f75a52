"""Which work each event queues in the registry."""

from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from millstream.training.v1.events_pb2 import TrainingRunSucceeded
from servicekit.work.keys import Handlers
from services.registry.reconcile import PromotionKey, VersionKey

HANDLERS: Handlers = {
    TrainingRunSucceeded: lambda event: [VersionKey(event.run_id)],
    EvaluationCompleted: lambda event: [PromotionKey(event.model)],
    # The release of a hold may allow a promotion that was refused before.
    AliasMoved: lambda event: [PromotionKey(event.model)],
    # So may a changed gate, or promotion that has become automatic.
    ModelApplied: lambda event: [PromotionKey(event.model)],
}
