"""What a version writes, kind by kind: the list that its corpus must cover.

Events come from the topics in millstream/defaults.py, facts from the services' own lists, the types of stored objects from
here. Tests fail on an object of no kind, and on a message of the protos that neither a call nor a kind uses.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.message import Message

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import SERVICES, TOPICS
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.evaluation.v1.evaluation_request_pb2 import EvaluationRequest
from millstream.inference.v1.refusal_pb2 import Refusal, RefusalLift
from millstream.operations.v1.stored_pb2 import (
    Claim,
    DeadLetterResolution,
    Heartbeat,
    LedgerBlock,
    LedgerEntry,
    OpenMarker,
    OutboxMarker,
)
from millstream.registry.v1.model_pb2 import AliasEntry, ModelSpec, ModelVersion
from millstream.training.v1.attempt_pb2 import AttemptEnd as TrainingAttemptEnd
from millstream.training.v1.attempt_pb2 import AttemptFailure, IndexedRun, RunNumerics, RunOutcome, RunRequest
from millstream.training.v1.training_run_pb2 import Artifact, RunProgress
from servicekit.blobs.patterns import matcher
from servicekit.facts.outbox import Fact

PROTOS = Path(__file__).resolve().parents[3] / "protos"


@dataclass(frozen=True)
class Kind:
    """Objects of one pattern: `*` is one segment of the key, `**` the rest of it."""

    pattern: str
    message: type[Message] | None = None
    """None: no message of ours, but a file of a user or recipe, or a text."""
    in_ledger: bool = False
    """The message is inside a LedgerEntry."""

    def matches(self, key: str) -> bool:
        return matcher(self.pattern).fullmatch(key) is not None


OBJECTS = (
    Kind("artifacts/*/files/**"),
    Kind("artifacts/*/manifest", Artifact),
    Kind("checkpoints/*/*/*/files/**"),
    Kind("checkpoints/*/*/*/manifest", Artifact),
    Kind("datasets/*/attempts/*/*/claim", Claim),
    Kind("datasets/*/attempts/*/*/heartbeat", Heartbeat),
    Kind("datasets/*/attempts/*/*/released", Claim),
    Kind("datasets/*/imports/*", Import),
    Kind("datasets/*/ledger/*", Snapshot, in_ledger=True),
    Kind("datasets/*/outcomes/*", Import),
    Kind("datasets/*/parts/*"),
    Kind("datasets/*/spec/*", DatasetSpec, in_ledger=True),
    Kind("dead-letters/*/*", DeadLetterResolution),
    Kind("evaluations/*/*/*", EvaluationRequest, in_ledger=True),
    Kind("ledger-blocks/**", LedgerBlock),
    Kind("models/*/aliases/*/*", AliasEntry, in_ledger=True),
    Kind("models/*/spec/*", ModelSpec, in_ledger=True),
    Kind("models/*/versions/*", ModelVersion, in_ledger=True),
    Kind("open/*/*", OpenMarker),
    Kind("outbox-parked/*/*", OutboxMarker),
    Kind("outbox/*/*", OutboxMarker),
    Kind("refusals/*/*/attempts/*", Claim),
    Kind("refusals/*/*/lifts/*", RefusalLift),
    Kind("refusals/*/*/refusal", Refusal),
    Kind("reports/*/*/*/attempts/*/claim", Claim),
    Kind("reports/*/*/*/attempts/*/end", AttemptEnd),
    Kind("reports/*/*/*/attempts/*/heartbeat", Heartbeat),
    Kind("reports/*/*/*/report", EvaluationReport),
    Kind("reports/*/*/*/report.html"),
    Kind("reports/*/*/*/report.json"),
    Kind("runs/attempts/*/*/claim", Claim),
    Kind("runs/attempts/*/*/end", TrainingAttemptEnd),
    Kind("runs/attempts/*/*/failure", AttemptFailure),
    Kind("runs/attempts/*/*/heartbeat", Heartbeat),
    Kind("runs/attempts/*/*/log/*"),
    Kind("runs/attempts/*/*/progress", RunProgress),
    Kind("runs/index/*", IndexedRun, in_ledger=True),
    Kind("runs/numerics/*", RunNumerics),
    Kind("runs/outcomes/*", RunOutcome),
    Kind("runs/requests/*", RunRequest),
    Kind("uploads/*"),
)
PROBES = ("clock/",)
"""Prefixes of objects without information, which are rewritten when needed."""


def kind_of(key: str) -> Kind | None:
    """The kind of an object; None for one that is not described here."""
    return next((kind for kind in OBJECTS if kind.matches(key)), None)


def strangers(keys: Iterable[str]) -> list[str]:
    """The keys that are of no kind."""
    return [key for key in keys if not key.startswith(PROBES) and not kind_of(key)]


def events() -> list[str]:
    """The full name of every event."""
    fields = [field for topic in TOPICS for field in topic.message.DESCRIPTOR.fields]
    return [field.message_type.full_name for field in fields if field.message_type]


def facts() -> dict[str, Callable[[str, bytes], Fact]]:
    """The pattern of every object that is published on the bus, with the function that builds its event."""
    found: dict[str, Callable[[str, bytes], Fact]] = {}
    for service in SERVICES:
        found |= getattr(importlib.import_module(f"services.{service}.store"), "FACTS", {})
    return found


def beside_calls() -> set[str]:
    """The full names of the messages that no call uses as request or response: these are stored or published."""
    files = [_file(path) for path in proto_files()]
    declared = {message.full_name for file in files for message in file.message_types_by_name.values()}
    methods = [method for file in files for service in file.services_by_name.values() for method in service.methods]
    called = within(kind for method in methods for kind in (method.input_type, method.output_type))
    return declared - called


def stored_or_published() -> set[str]:
    """The full name of every message that a described object or an event can hold."""
    types: list[type[Message]] = [LedgerEntry, *(topic.message for topic in TOPICS)]
    types += [kind.message for kind in OBJECTS if kind.message]
    return within(message.DESCRIPTOR for message in types)


def within(messages: Iterable[Any]) -> set[str]:
    """The full names of these messages, given by their descriptors, and of all that they can hold."""
    found: set[str] = set()
    waiting: list[Descriptor] = list(messages)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            waiting += [field.message_type for field in message.fields if field.message_type]
    return found


def proto_files() -> list[Path]:
    """Every file of the protos."""
    return sorted(PROTOS.glob("millstream/**/*.proto"))


def _file(path: Path) -> FileDescriptor:
    name = path.relative_to(PROTOS).with_suffix("").as_posix().replace("/", ".")
    module = importlib.import_module(f"{name}_pb2")
    descriptor: FileDescriptor = module.DESCRIPTOR
    return descriptor
