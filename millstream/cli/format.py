"""Messages as short texts for people."""

from collections.abc import Mapping
from datetime import UTC

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.defaults import CHAMPION
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.inference.v1.prediction_pb2 import Served
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.registry.v1.model_pb2 import AliasEntry, GateRule
from millstream.states import word_of
from millstream.timestamps import seconds_of
from millstream.training.v1.lineage_pb2 import Lineage
from millstream.training.v1.training_run_pb2 import TrainingRun

LABELS_SHOWN = 20
REASONS_SHOWN = 5
DAMAGED = "damaged"
"""Shown in place of a state that nobody knows, because its stored object cannot be read."""
MOST_QUARANTINED = 0.5
"""Share of a file's rows. With more in quarantine a person should look at the file first."""


def when(time: Timestamp) -> str:
    """A time in the local zone, to the second; "-" for an unset one."""
    return f"{time.ToDatetime(UTC).astimezone():%Y-%m-%d %H:%M:%S}" if time.seconds else "-"


def seconds(duration: Duration) -> str:
    """A duration, such as `3.0 s`."""
    return f"{seconds_of(duration):.1f} s"


def figures(metrics: Mapping[str, float]) -> str:
    """Metrics by name, four decimals: `accuracy 0.5000, loss 0.2500`; "" for none."""
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 attempt`, `2 attempts`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def run_state(run: TrainingRun) -> str:
    """A run's state: pending, running, succeeded, failed or cancelled; or damaged."""
    return word_of(TrainingRun.State, run.state) if run.state else DAMAGED


def import_state(found: Import) -> str:
    """An import's state: pending, running, succeeded, unchanged or refused."""
    return word_of(Import.State, found.state)


def report_status(report: EvaluationReport) -> str:
    """A report's status: passed, failed or error; or damaged."""
    return word_of(EvaluationReport.Status, report.status) if report.status else DAMAGED


def action(entry: AliasEntry) -> str:
    """How an alias was moved, such as `promoted automatically` or `rolled back`; or damaged."""
    if entry.problem:
        return DAMAGED
    return word_of(AliasEntry.Action, entry.action).replace("_", " ")


def resolution_line(done: DeadLetterResolution) -> str:
    """What was done with a dead letter, by which actor, when, with the note."""
    note = f": {done.note}" if done.note else ""
    if not done.action:
        return f"resolved, {DAMAGED}{note}"
    return f"{word_of(DeadLetterResolution.Action, done.action)} by {done.actor}, {when(done.time)}{note}"


def import_line(found: Import) -> str:
    """An import's state and progress in one line, and what it changed."""
    ended = f" → snapshot {found.snapshot_number}" if found.snapshot_number else ""
    if found.HasField("changes"):
        did = found.changes
        ended += f": {did.rows_before} rows before, {did.rows_after} now, {did.added} added, {did.removed} removed"
    text = found.refusal or found.waits_for
    return f"import {found.request_id} {import_state(found)}, {found.rows_read} rows read{ended}{text and f': {text}'}"


def file_lines(found: Import) -> list[str]:
    """What an import found in its file: rows, the main reasons of the quarantine, what became of labels, and the next step.

    None for an import that has not ended, was refused, or was done by an earlier version.
    """
    file = found.file
    rows = file.rows
    if not rows.read:
        return []
    lines = [
        f"the file: {rows.kept} of {rows.read} rows kept, {rows.duplicate} duplicate, {rows.quarantined} quarantined"
    ]
    if rows.quarantined > MOST_QUARANTINED * rows.read:
        share = f"{rows.quarantined} of {rows.read} rows ({rows.quarantined / rows.read:.0%})"
        lines.append(f"warning: {share} are in quarantine and no model sees them: correct the file and import it again")
    reasons = sorted(file.quarantine_reasons.items(), key=lambda reason: (-reason[1], reason[0]))
    lines += [f"quarantined, {reason}: {number}" for reason, number in reasons[:REASONS_SHOWN]]
    if others := [number for _, number in reasons[REASONS_SHOWN:]]:
        lines.append(f"quarantined, {count(len(others), 'other reason')}: {sum(others)}")
    if file.trimmed_labels:
        lines.append(f"labels: {file.trimmed_labels} trimmed of invisible edges")
    if file.normalised_labels:
        lines.append(f"labels: {file.normalised_labels} decimals read as whole numbers (1.0 is 1)")
    if found.source.dialect:
        lines.append(f"dialect: {found.source.dialect}")
    where = f"{found.dataset} --number {found.snapshot_number}"
    if rows.quarantined and found.state == Import.STATE_UNCHANGED:
        lines.append(
            "the quarantined rows are stored nowhere, since there is no new snapshot: correct them in the file"
        )
    elif rows.quarantined:
        lines.append(f"see the quarantined rows: `millstream datasets rows {where} --split quarantine`")
    return [*lines, f"see the snapshot: `millstream datasets show {where}`"]


def label_lines(snapshot: Snapshot) -> list[str]:
    """A snapshot's labels with their rows by split, the most frequent first, and what to look at; none without labels."""
    labels = snapshot.labels
    if not labels.column:
        return []
    more = " or more" if labels.distinct_stopped else ""
    lines = [f"labels of the {snapshot.rows.kept} kept rows, in column {labels.column}: {labels.distinct:,}{more}"]
    lines += [
        f"label {one.label}: {one.train} train, {one.validation} validation, {one.test} test"
        for one in labels.counts[:LABELS_SHOWN]
    ]
    if len(labels.counts) > LABELS_SHOWN:
        lines.append(f"the other labels are in `millstream datasets show {snapshot.dataset} -o json`")
    return lines + [f"warning: {text}" for text in labels.warnings]


def run_line(run: TrainingRun) -> str:
    """A run's state, progress and metrics in one line."""
    now = run.progress
    parts = [f"run {run.run_id} {run_state(run)}"]
    if run.attempt > 1:
        parts.append(f"attempt {run.attempt}")
    parts += progress_parts(run)
    if run.metrics or now.metrics:
        parts.append(f"validation: {figures(run.metrics or now.metrics)}")
    if run.reason:
        parts.append(run.reason)
    return ", ".join(parts)


def progress_parts(run: TrainingRun) -> list[str]:
    """How far a run is: what a narrow terminal must show comes first."""
    now = run.progress
    parts = [f"step {now.step}/{now.total_steps}"] if now.step else []
    if now.HasField("remaining") and run.state == TrainingRun.STATE_RUNNING:
        parts.append(f"at most {time_left(seconds_of(now.remaining))} to go")
    return [*parts, f"loss {now.loss:.4f}"] if now.step else parts


def time_left(left: float) -> str:
    """A time in its two largest units: `45 s`, `2 min 5 s`, `3 h 10 min`."""
    whole = round(left)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def inexact_lines(lineage: Lineage) -> list[str]:
    """From which step on a run that resumed with something else is not bit-exact, and why; none where all of it is."""
    if not lineage.HasField("inexact_from_step"):
        return []
    told = lineage.departures or [f"from step {lineage.inexact_from_step} on"]
    return [f"not bit-exact {one}" for one in told]


def rule_line(rule: GateRule) -> str:
    """A rule of a gate: `accuracy at least 0.8, at least +0.01 over the champion`."""
    limits = [f"at least {rule.at_least:g}"] if rule.HasField("at_least") else []
    limits += [f"at most {rule.at_most:g}"] if rule.HasField("at_most") else []
    limits += [f"at least {rule.over_baseline:+g} over the baseline"] if rule.HasField("over_baseline") else []
    limits += [f"at least {rule.over_champion:+g} over the champion"] if rule.HasField("over_champion") else []
    return f"{rule.metric} {', '.join(limits) or 'without a limit'}"


def alias_line(entry: AliasEntry) -> str:
    """Which version an alias names, by which entry; of the champion, whether it is on hold."""
    moved = f"{entry.alias} of {entry.model} is version {entry.version} (entry {entry.number}, {action(entry)}"
    if entry.alias != CHAMPION:
        return f"{moved})"
    hold = f"on hold: no automatic promotion until `millstream release {entry.model}`"
    return f"{moved}; {hold if entry.hold else 'free for automatic promotion'})"


def hold_line(entry: AliasEntry) -> str:
    """Which version an alias names and, if it is on hold, since when, by which actor, why, and how that ends."""
    line = f"{entry.alias} version {entry.version}, {action(entry)} {when(entry.time)} by {entry.actor}"
    if not entry.hold:
        return line
    reason = f" ({entry.override or entry.reason})" if entry.override or entry.reason else ""
    return f"{line}{reason}; on hold: nothing is promoted automatically until `millstream release {entry.model}`"


def served_line(served: Served) -> str:
    """Which version answered, with its backend and precision."""
    return f"{served.model} version {served.version} as {served.alias}, {served.backend} {served.precision}"
