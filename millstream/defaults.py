"""The topic table: one topic per domain, one message type per topic, the key being the noun's id."""

from dataclasses import dataclass

from google.protobuf.message import Message

from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.evaluation.v1.events_pb2 import EvaluationEvent
from millstream.inference.v1.events_pb2 import InferenceEvent
from millstream.registry.v1.events_pb2 import RegistryEvent
from millstream.training.v1.events_pb2 import TrainingEvent


@dataclass(frozen=True)
class Topic:
    name: str
    message: type[Message]
    """Wraps each event of the topic in its oneof `event`."""


TOPICS: tuple[Topic, ...] = (
    Topic("millstream.dataset.v1", DatasetEvent),
    Topic("millstream.training.v1", TrainingEvent),
    Topic("millstream.registry.v1", RegistryEvent),
    Topic("millstream.evaluation.v1", EvaluationEvent),
    Topic("millstream.inference.v1", InferenceEvent),
)
BY_NAME = {topic.name: topic for topic in TOPICS}


def topic_of(event_type: str) -> Topic:
    """The topic of an event type: `millstream.dataset.v1.SnapshotCreated` → `millstream.dataset.v1`."""
    return BY_NAME[event_type.rpartition(".")[0]]


def dead_letters_of(group: str) -> str:
    return f"{group}.dlq"
