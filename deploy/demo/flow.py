"""Follows one file through the platform, stage by stage, with each stage's seconds: import → … → served."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from millstream import Client
from millstream.cli.format import figures, report_status, run_line, run_state
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import MillstreamError, NotFound, Unavailable
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.inference.v1.prediction_pb2 import ServedModel
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion
from millstream.states import RUN_ENDED
from millstream.training.v1.training_run_pb2 import TrainingRun

T = TypeVar("T")
PAUSE = 0.02


class StageFailed(RuntimeError):
    """A stage ended in an error or a timeout; `stage` names it, `reason` says why and what to do."""

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(reason)
        self.stage, self.reason = stage, reason


@dataclass
class Flow:
    """One file's way to a prediction. Each stage raises StageFailed.

    `patience` is the timeout of a stage in seconds, `training_patience` that of the training. `on_progress` is a callback
    (stage, text). `seconds` holds how long each stage took.
    """

    client: Client
    on_progress: Callable[[str, str], None] = lambda stage, text: None
    patience: float = 60.0
    training_patience: float = 1800.0
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage. An error of the client inside becomes StageFailed of this stage."""
        started = time.monotonic()
        try:
            yield
        except MillstreamError as error:
            raise StageFailed(name, str(error)) from error
        finally:
            self.seconds[name] = round(time.monotonic() - started, 3)

    def bring_in(self, path: Path, dataset: str, recipe: str) -> tuple[Import, Snapshot]:
        """Import the file. An import of rows that the newest snapshot already holds ends in that snapshot."""
        with self.stage("import"):
            name = str(uuid4())
            self._retried(
                lambda: self.client.import_dataset(path, dataset, recipe=recipe, request_id=name, mode="replace")
            )
            ended = self._retried(lambda: self.client.wait_import(dataset, name, timeout=self.patience))
            if ended.state == Import.STATE_REFUSED:
                raise StageFailed("import", ended.refusal)
            snapshot = self._retried(lambda: self.client.snapshot(dataset, ended.snapshot_number))
        rows, unchanged = snapshot.rows, ended.state != Import.STATE_SUCCEEDED
        text = f"{rows.read} rows read, {rows.kept} kept, {rows.duplicate} duplicate, {rows.quarantined} quarantined"
        note = "; unchanged since the last import" if unchanged else ""
        self.on_progress("import", f"snapshot {snapshot.number} of {dataset}: {text}{note}")
        return ended, snapshot

    def apply(self, spec: Mapping[str, Any]) -> Model:
        """Declare the model."""
        with self.stage("apply"):
            name = str(uuid4())
            return self._retried(lambda: self.client.apply_model(spec, request_id=name))

    def train(self, model: str, snapshot: Snapshot) -> TrainingRun:
        """Wait for the automatic run on this snapshot, and for its end."""
        with self.stage("train"):
            run = self._until("train", f"a run of {model}", lambda: self._run_on(model, snapshot))
            for now in self.client.watch_run(run.run_id, timeout=self.training_patience):
                if run_line(now) != run_line(run) or now.state in RUN_ENDED:
                    self.on_progress("train", run_line(now))
                run = now
            if run.state != TrainingRun.STATE_SUCCEEDED:
                raise StageFailed("train", f"run {run.run_id} ended as {run_state(run)}: {run.reason}")
        return run

    def register(self, model: str, run: TrainingRun) -> ModelVersion:
        """Wait for the version that registry makes of the run."""
        with self.stage("register"):
            version = self._until(
                "register",
                f"a version of run {run.run_id}",
                lambda: next((v for v in self.client.versions(model) if v.run_id == run.run_id), None),
            )
        validated = f"{figures(version.metrics)} on the validation split"
        self.on_progress("register", f"{model} version {version.version}: {validated}")
        return version

    def evaluate(self, version: ModelVersion) -> EvaluationReport:
        """Wait for the version's first report, whatever its status."""
        with self.stage("evaluate"):
            report = self._until(
                "evaluate",
                f"a report on version {version.version}",
                lambda: list(self.client.reports(version.model, version.version))[-1:],
            )[0]
        measured = figures({metric.metric: metric.candidate for metric in report.metrics})
        text = f"{report_status(report)}: {measured} on {report.rows_compared} test rows; {report.error}"
        self.on_progress("evaluate", text.rstrip("; "))
        for result in report.gate:
            self.on_progress("evaluate", f"  {'passed' if result.passed else 'FAILED'}: {result.text}")
        return report

    def promote(self, version: ModelVersion, report: EvaluationReport) -> AliasEntry:
        """Wait until the champion is this version or has been."""
        with self.stage("promote"):
            if report.status != EvaluationReport.STATUS_PASSED:
                reasons = [result.text for result in report.gate if not result.passed] or [report.error]
                raise StageFailed("promote", f"the report {report.report_id} did not pass: {'; '.join(reasons)}")
            entry = self._until("promote", "its promotion", lambda: self._promotion(version))
        self.on_progress("promote", f"{entry.alias} of {entry.model} is version {entry.version} (entry {entry.number})")
        return entry

    def serve(self, version: ModelVersion) -> ServedModel:
        """Wait until inference serves this version, or a later one, as champion."""
        with self.stage("serve"):
            served = self.client.wait_served(version.model, version.version, timeout=self.patience)
        answers = served.served
        self.on_progress("serve", f"version {answers.version} answers on {answers.backend}, {answers.precision}")
        return served

    def _run_on(self, model: str, snapshot: Snapshot) -> TrainingRun | None:
        fitting = (run for run in self.client.runs(model) if run.spec.snapshot_id == snapshot.snapshot_id)
        runs = list(fitting)
        return next((run for run in runs if run.state == TrainingRun.STATE_SUCCEEDED), runs[0] if runs else None)

    def _promotion(self, version: ModelVersion) -> AliasEntry | None:
        try:
            return next((e for e in self.client.alias_history(version.model) if e.version == version.version), None)
        except NotFound:
            return None

    def _until(self, stage: str, what: str, poll: Callable[[], T | None]) -> T:
        """Poll until something is found. Raises StageFailed at the timeout."""
        deadline = time.monotonic() + self.patience
        while not (found := self._retried(poll)):
            if time.monotonic() > deadline:
                raise StageFailed(stage, f"timeout after {self.patience:g} s of waiting for {what}")
            time.sleep(PAUSE)
        return found

    def _retried(self, call: Callable[[], T]) -> T:
        """The result of a call, retried while the service is unavailable, until the stage's timeout."""
        deadline = time.monotonic() + self.patience
        while True:
            try:
                return call()
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE)
