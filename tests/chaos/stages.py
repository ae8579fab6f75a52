"""How far a flow is, to the millisecond: its stages are distinguished by the failpoints that the services reach.

A poll by RPC sees a stage only when it is over; failpoints stand between the durable writes themselves.
"""

import importlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from servicekit.facts.outbox import kind_name
from servicekit.failpoints import REACHED
from tests.e2e.invariants import OWNERS, UNPUBLISHED
from tests.worlds.platform import ROOT

CALL = re.compile(r'(?<!def )\bfailpoint\(f?"([^"]+)"\)')
STORED_FOLDERS = ("artifacts", "checkpoints")
"""The kinds of folders that servicekit/blobs/artifacts.py stores: its one failpoint is reached for each."""
REFUSING, REPLAYED, PARKED = "inference.refused", "operations.replayed", "outbox.parked"
MARKED_REQUEST, STORED_REQUEST = "outbox.evaluations.marked", "outbox.evaluations.stored"
UNPARKED, DEAD_LETTERED = "outbox.unparked", "consumer.dead-lettered"
ELSEWHERE: Mapping[str, str] = {
    REFUSING: "tests/chaos/test_failpoints.py::test_killed_while_refusing_a_damaged_version_the_old_one_serves",
    REPLAYED: "tests/chaos/test_failpoints.py::test_killed_while_replaying_a_dead_letter_it_can_be_replayed_again",
    PARKED: "tests/unit/servicekit/test_failpoints.py::test_a_marker_half_parked_is_parked_by_the_next_sweep",
    UNPARKED: "tests/unit/servicekit/test_failpoints.py::test_a_marker_half_unparked_is_unparked_by_the_next_start",
    MARKED_REQUEST: "tests/unit/servicekit/test_failpoints.py::test_between_marker_and_request_no_request_is_lost",
    STORED_REQUEST: "tests/unit/servicekit/test_failpoints.py::test_between_marker_and_request_no_request_is_lost",
    DEAD_LETTERED: "tests/unit/servicekit/test_failpoints.py::test_a_message_dead_lettered_and_not_committed_is_one_letter",
}
"""Failpoints that the flow of a served version does not reach, each with the test that kills a process there."""

STAGES: dict[str, Sequence[str]] = {
    "apply": ("outbox.models-spec.", "work."),
    "import": ("dataprep.", "outbox.datasets-imports.", "outbox.datasets-ledger."),
    "train": (
        "trainer.",
        "worker.",
        "artifacts.",
        "checkpoints.",
        "outbox.runs-requests.",
        "outbox.runs-attempts-claim.",
    ),
    "register": ("outbox.runs-outcomes.", "outbox.models-versions."),
    "evaluate": ("evaluator.", "outbox.reports-report."),
    "promote": ("outbox.models-aliases.",),
    "serve": ("inference.",),
}
"""Stage → prefixes of its failpoints' names, in the order of the flow. The outcome of a run begins "register"."""
SERVED = "served"
POLL_SECONDS = 0.002


def calls() -> list[str]:
    """The name in each call of failpoint(), as the source has it, in the order of the files."""
    files = sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "servicekit").rglob("*.py")])
    return [name for file in files for name in CALL.findall(file.read_text())]


def failpoints() -> list[str]:
    """The names of all failpoints; a call whose name has a placeholder stands for one failpoint of each kind."""
    facts = [kind_name(p) for s in OWNERS for p in importlib.import_module(f"services.{s}.store").FACTS]
    kinds: dict[str, Sequence[str]] = {"{kind.name}": facts, "{kind}": STORED_FOLDERS}
    names: list[str] = []
    for name in calls():
        placeholder = next((each for each in kinds if each in name), "")
        names += [name.replace(placeholder, kind) for kind in kinds[placeholder]] if placeholder else [name]
    never = [f"outbox.{kind_name(pattern)}.published" for pattern in UNPUBLISHED]
    return [name for name in names if name not in never]


def reached_by_flow() -> list[str]:
    """The failpoints that a flow reaches."""
    return [name for name in failpoints() if name not in ELSEWHERE]


def stage_of(failpoint: str) -> str:
    """The stage that a failpoint belongs to. Raises LookupError for one without a stage."""
    for stage, prefixes in STAGES.items():
        if failpoint.startswith(tuple(prefixes)):
            return stage
    raise LookupError(f"failpoint {failpoint} belongs to no stage: add its prefix to tests/chaos/stages.py")


def failpoints_of(stage: str) -> list[str]:
    """The failpoints of a stage."""
    return [name for name in reached_by_flow() if stage_of(name) == stage]


class FailpointWatcher(threading.Thread):
    """Watches which failpoints a flow reaches. `stage` is the furthest so far, "served" after end(); `last` its newest."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.stage, self.last = "start", ""
        self._order = list(STAGES)
        self._open = set(reached_by_flow())
        self._ended = threading.Event()
        self._reached = {name: threading.Event() for name in self._open}
        for name in self._open:
            (folder / f"{name}{REACHED}").touch()

    def run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            there = {name.removesuffix(REACHED) for name in os.listdir(self.folder) if name.endswith(REACHED)}
            gone = self._open - there
            for name in sorted(gone, key=lambda name: self._order.index(stage_of(name))):
                self._reach(name)
            self._open -= gone

    def _reach(self, name: str) -> None:
        stage = stage_of(name)
        if self.stage == "start" or self._order.index(stage) >= self._order.index(self.stage):
            self.stage, self.last = stage, name
        self._reached[name].set()

    def wait_for(self, name: str) -> bool:
        """Block until the flow has reached the failpoint; False if it ended before."""
        while not self._reached[name].wait(0.05):
            if self._ended.is_set():
                return False
        return True

    def wait_for_end(self) -> None:
        """Block until end()."""
        self._ended.wait()

    def end(self) -> None:
        """The flow has ended: release every waiting thread, and remove the remaining marker files."""
        self.stage, self.last = SERVED, ""
        self._ended.set()
        for file in self.folder.glob(f"*{REACHED}"):
            file.unlink(missing_ok=True)
