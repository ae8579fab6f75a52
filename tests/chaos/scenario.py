"""The scenario under faults: as tests/e2e/scenario.py, by a caller that retries while a service is unavailable."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from millstream import Client
from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import Conflict, DeadlineExceeded, NotFound, Overloaded, Unavailable
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import ModelVersion
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.e2e import invariants
from tests.worlds.platform import World, wait_until

T = TypeVar("T")
TIMEOUT_SECONDS = 60.0
TRANSIENT = (Unavailable, Overloaded, Conflict, DeadlineExceeded)
RESYNC_SECONDS = 5.0


@dataclass
class Flow:
    """One file's way through a platform in which processes die. `name` names its dataset and its model."""

    world: World
    name: str
    recipe: str = "toy_words"
    preset: str = "toy"
    config: dict[str, Any] = field(default_factory=dict)
    gate: list[dict[str, Any]] = field(default_factory=list)
    deadline: Callable[[], float] | None = None
    """The time on the monotonic clock at which waits fail; None: a minute after each began."""
    pause: float = 0.0
    """Seconds between declaring the model and importing the file, as with a human caller."""
    stage: str = "before"
    """The stage that it is in, for a concurrent killer."""

    def run(self, file: Path) -> TrainingRun:
        """through(), then check()."""
        run = self.through(file)
        with self.world.client() as client:
            self.check(client)
        return run

    def through(self, file: Path) -> TrainingRun:
        """Import the file and wait until every replica serves its version. Returns the run that trained it."""
        with self.world.client() as client:
            self.stage = "apply"
            self.persist(lambda: client.apply_model(self.spec()))
            time.sleep(self.pause)
            self.stage = "import"
            self._import(client, file)
            self.stage = "train"
            run = self.until("a run that succeeded", lambda: self._succeeded(client))
            self.stage = "register"
            version = self.until("its version", lambda: self._version(client, run))
            self.stage = "evaluate"
            report = self.until("its report", lambda: next(iter(client.reports(self.name, version.version)), None))
            assert report.status == EvaluationReport.STATUS_PASSED, f"the report says: {report.error or report.gate}"
            self.stage = "promote"
            self.until("the champion", lambda: client.alias(self.name).version == version.version)
            self.stage = "serve"
            self.until("its serving", lambda: self.served_everywhere(version))
            self.stage = "served"
            return run

    def spec(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "recipe": self.recipe,
            "preset": self.preset,
            "config": self.config,
            "dataset": self.name,
            "gate": self.gate,
            "promotion": {"automatic": True},
            "training": {"automatic": True},
        }

    def check(self, client: Client) -> None:
        """Exactly one snapshot, outcome, version, report and alias move, and every event published."""
        blobs = self.world.blobs()
        wait_until(lambda: invariants.keys(blobs, "outbox/") == [], "every fact is published", TIMEOUT_SECONDS)
        assert len(invariants.entries(blobs, f"datasets/{self.name}/ledger", Snapshot)) == 1
        runs = self.persist(lambda: list(client.runs(self.name)))
        assert [run.state for run in runs] == [TrainingRun.STATE_SUCCEEDED], "one run, with one outcome"
        assert f"runs/outcomes/{runs[0].run_id}" in invariants.keys(blobs, "runs/outcomes/")
        invariants.check_versions(blobs, client, self.name)
        invariants.check_reports_and_aliases(blobs, client, self.name)
        assert len(list(client.versions(self.name))) == 1
        assert len(list(client.reports(self.name))) == 1
        assert len(list(client.alias_history(self.name))) == 1

    def persist(self, call: Callable[[], T]) -> T:
        """Call, and retry while a service is unavailable."""
        too_late = self._too_late()
        while True:
            try:
                return call()
            except TRANSIENT:
                if too_late():
                    raise
                time.sleep(0.1)

    def _import(self, client: Client, file: Path) -> None:
        """With one request_id, so that a retry is the same import."""
        request_id = f"import-{self.name}"
        self.persist(lambda: client.import_dataset(file, self.name, recipe=self.recipe, request_id=request_id))
        ended = self.until("its import", lambda: client.wait_import(self.name, request_id, timeout=RESYNC_SECONDS))
        assert ended.state == Import.STATE_SUCCEEDED, ended.refusal

    def _succeeded(self, client: Client) -> TrainingRun | None:
        runs = list(client.runs(self.name))
        for run in runs:
            failed = run.state in (TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
            assert not failed, f"run {run.run_id} ended as {run.state}: {run.reason}"
        return next((run for run in runs if run.state == TrainingRun.STATE_SUCCEEDED), None)

    def _version(self, client: Client, run: TrainingRun) -> ModelVersion | None:
        return next((version for version in client.versions(self.name) if version.run_id == run.run_id), None)

    def served_everywhere(self, version: ModelVersion) -> bool:
        """Whether each replica of inference answers with this version."""
        for address in self.world.addresses["inference"].split(","):
            with Client(inference=address, credentials=self.world.credentials) as replica:
                served = replica.classify(self.name, ["kind and sweet"]).served
            if (served.version, served.artifact_digest) != (version.version, version.artifact.digest):
                return False
        return True

    def _too_late(self) -> Callable[[], bool]:
        end = time.monotonic() + TIMEOUT_SECONDS
        return lambda: time.monotonic() > (self.deadline() if self.deadline else end)

    def until(self, what: str, poll: Callable[[], T | None]) -> T:
        """Poll until there is something, also while a service is unavailable or answers NotFound."""
        too_late = self._too_late()
        while True:
            try:
                if found := poll():
                    return found
            except (*TRANSIENT, NotFound):
                pass
            assert not too_late(), f"{self.name}: still without {what}"
            time.sleep(0.05)


def weights(run: TrainingRun, file: str) -> str:
    """The digest of the file that holds the weights."""
    return next(found.digest for found in run.artifact.files if found.path == file)
