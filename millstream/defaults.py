"""Names that every part shares: the services and their ports, the alias `champion`, the topics and their messages."""

import re
from dataclasses import dataclass

from google.protobuf.message import Message

from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.evaluation.v1.events_pb2 import EvaluationEvent
from millstream.inference.v1.events_pb2 import InferenceEvent
from millstream.registry.v1.events_pb2 import RegistryEvent
from millstream.training.v1.events_pb2 import TrainingEvent

SERVICES = ("dataprep", "trainer", "evaluator", "registry", "inference")
"""In order of their ports: service i (from 1) listens on PORT_BASE + i and serves /metrics on METRICS_BASE + i."""
HOST, PORT_BASE, METRICS_BASE = "127.0.0.1", 50050, 9100
CHAMPION = "champion"
"""The alias that automatic promotion moves, and the default wherever an alias is empty."""


def address(service: str, base: int = PORT_BASE, host: str = HOST) -> str:
    """`host:port` of a service's gRPC server; an IPv6 host may have its brackets or not."""
    return joined(host, base + 1 + SERVICES.index(service))


def joined(host: str, port: int | str) -> str:
    """`host:port`; an IPv6 host gets brackets unless it has them."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def is_address(text: str) -> bool:
    """Whether it is one `host:port`, such as 127.0.0.1:50051 or [::1]:50051."""
    host, _, port = text.rpartition(":")
    return bool(host and re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 65536


def metrics_address(service: str, base: int = METRICS_BASE) -> str:
    """`host:port` of a service's /metrics."""
    return address(service, base)


@dataclass(frozen=True)
class Topic:
    """One topic per domain. A message's key is the id of the object that its event is about."""

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
_EVENTS = frozenset(
    field.message_type.full_name for topic in TOPICS for field in topic.message.DESCRIPTOR.fields if field.message_type
)


def topic_of(event_type: str) -> Topic:
    """The topic of an event type: `millstream.dataset.v1.SnapshotCreated` → `millstream.dataset.v1`. Raises KeyError."""
    return BY_NAME[event_type.rpartition(".")[0]]


def is_event(message: type[Message] | Message) -> bool:
    """Whether messages of this type are published; other facts are stored alone."""
    return message.DESCRIPTOR.full_name in _EVENTS


def dead_letters_of(group: str) -> str:
    """The topic of a consumer group's dead letters: `{group}.dlq`."""
    return f"{group}.dlq"
