"""Which work an event queues in the registry."""

import pytest
from google.protobuf.message import Message

from millstream.evaluation.v1.events_pb2 import EvaluationCompleted
from millstream.registry.v1.events_pb2 import AliasMoved, ModelApplied
from millstream.training.v1.events_pb2 import TrainingRunSucceeded
from servicekit.work.keys import Key
from services.registry.handlers import HANDLERS
from services.registry.reconcile import PromotionKey, VersionKey


@pytest.mark.parametrize(
    ("event", "key"),
    [
        (TrainingRunSucceeded(run_id="run-1", model="toy"), VersionKey("run-1")),
        (EvaluationCompleted(model="toy", version=3), PromotionKey("toy")),
        (AliasMoved(model="toy", alias="champion"), PromotionKey("toy")),
        (ModelApplied(model="toy", number=2, dataset="words"), PromotionKey("toy")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_event_queues_its_work(event: Message, key: Key) -> None:
    assert list(HANDLERS[type(event)](event)) == [key]
