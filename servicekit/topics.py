"""The topic table: one topic per domain, one message type per topic, the key being the noun's id."""

from dataclasses import dataclass

from google.protobuf.message import Message

from millrace.dataset.v1.events_pb2 import DatasetEvent
from millrace.evaluation.v1.events_pb2 import EvaluationEvent
from millrace.inference.v1.events_pb2 import InferenceEvent
from millrace.registry.v1.events_pb2 import RegistryEvent
from millrace.training.v1.events_pb2 import TrainingEvent


@dataclass(frozen=True)
class Topic:
    name: str
    message: type[Message]
    """Wraps each event of the topic in its oneof `event`."""


TOPICS: tuple[Topic, ...] = (
    Topic("millrace.dataset.v1", DatasetEvent),
    Topic("millrace.training.v1", TrainingEvent),
    Topic("millrace.registry.v1", RegistryEvent),
    Topic("millrace.evaluation.v1", EvaluationEvent),
    Topic("millrace.inference.v1", InferenceEvent),
)
BY_NAME = {topic.name: topic for topic in TOPICS}


def topic_of(event_type: str) -> Topic:
    """The topic on which an event of this full name is said: `millrace.dataset.v1.SnapshotCreated` → millrace.dataset.v1."""
    return BY_NAME[event_type.rpartition(".")[0]]


def dead_letters_of(group: str) -> str:
    return f"{group}.dlq"
