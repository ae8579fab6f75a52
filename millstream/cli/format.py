"""Messages in a few words, for people."""

from collections.abc import Mapping
from datetime import UTC

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1.import_pb2 import Import
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.inference.v1.prediction_pb2 import Served
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.registry.v1.model_pb2 import AliasEntry
from millstream.states import word_of
from millstream.timestamps import seconds_of
from millstream.training.v1.training_run_pb2 import TrainingRun


def when(time: Timestamp) -> str:
    """A moment in the local zone; a dash where there is none yet."""
    return f"{time.ToDatetime(UTC).astimezone():%Y-%m-%d %H:%M:%S}" if time.seconds else "-"


def seconds(duration: Duration) -> str:
    return f"{seconds_of(duration):.1f} s"


def figures(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def run_state(run: TrainingRun) -> str:
    return word_of(TrainingRun.State, run.state)


def import_state(found: Import) -> str:
    return word_of(Import.State, found.state)


def report_status(report: EvaluationReport) -> str:
    return word_of(EvaluationReport.Status, report.status)


def action(entry: AliasEntry) -> str:
    return word_of(AliasEntry.Action, entry.action).replace("_", " ")


def resolution_line(done: DeadLetterResolution) -> str:
    note = f": {done.note}" if done.note else ""
    return f"{word_of(DeadLetterResolution.Action, done.action)} by {done.actor}, {when(done.time)}{note}"


def import_line(found: Import) -> str:
    ended = f" → snapshot {found.snapshot_number}" if found.snapshot_number else ""
    refused = f": {found.refusal}" if found.refusal else ""
    return f"import {found.request_id} {import_state(found)}, {found.rows_read} rows read{ended}{refused}"


def run_line(run: TrainingRun) -> str:
    now = run.progress
    words = [f"run {run.run_id} {run_state(run)}"]
    if run.attempt > 1:
        words.append(f"attempt {run.attempt}")
    if now.step:
        words += [f"step {now.step}/{now.total_steps}", f"loss {now.loss:.4f}"]
    if run.metrics or now.metrics:
        words.append(f"validation: {figures(run.metrics or now.metrics)}")
    if now.HasField("remaining") and run.state == TrainingRun.STATE_RUNNING:
        words.append(f"at most {seconds(now.remaining)} to go")
    if run.reason:
        words.append(run.reason)
    return ", ".join(words)


def alias_line(entry: AliasEntry) -> str:
    held = "held: no automatic promotion until `millstream release`" if entry.hold else "free for automatic promotion"
    return f"{entry.alias} of {entry.model} is version {entry.version} (entry {entry.number}, {action(entry)}; {held})"


def served_line(served: Served) -> str:
    return f"{served.model} version {served.version} as {served.alias}, {served.backend} {served.precision}"
