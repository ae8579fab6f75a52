"""How far a flow is, to the millisecond: its stages are told apart by the crash points that the services come by.

Whoever polls by RPC sees a stage when it is over; the crash points stand between the durable writes themselves.
"""

import importlib
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from servicekit.facts.outbox import kind_name
from servicekit.failpoints import REACHED
from tests.worlds.platform import ROOT

CALL = re.compile(r'failpoint\(f?"([^"]+)"\)')
STORED_FOLDERS = ("artifacts", "checkpoints")
"""The kinds of folders that servicekit/blobs/artifacts.py stores: its one failpoint is passed for each."""
OWNERS = ("dataprep", "trainer", "registry", "evaluator")
REFUSING, REPLAYED, PARKED = "inference.refused", "operations.replayed", "outbox.parked"
ELSEWHERE = (REFUSING, REPLAYED, PARKED, "outbox.unparked", "consumer.dead-lettered")
"""Not on the way of a version that is served: they have tests of their own (tests/unit/servicekit/test_failpoints.py)."""

STAGES: dict[str, Sequence[str]] = {
    "apply": ("outbox.models-spec.",),
    "import": ("dataprep.", "outbox.datasets-ledger."),
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
"""Stage → how the names of its crash points begin, in the order of the flow. The outcome of a run begins "register"."""
SERVED = "served"
POLL_SECONDS = 0.002


def failpoints() -> list[str]:
    """The names of all places, in the order of the source; one that speaks of a kind of fact, once for each kind."""
    kinds = [kind_name(p) for s in OWNERS for p in importlib.import_module(f"services.{s}.store").FACTS]
    names: list[str] = []
    for file in sorted([*(ROOT / "services").rglob("*.py"), *(ROOT / "servicekit").rglob("*.py")]):
        for name in CALL.findall(file.read_text()):
            if "{kind.name}" in name:
                names += [name.replace("{kind.name}", kind) for kind in kinds]
            elif "{kind}" in name:
                names += [name.replace("{kind}", kind) for kind in STORED_FOLDERS]
            else:
                names.append(name)
    return list(dict.fromkeys(names))


def passed_by() -> list[str]:
    """Those that a flow comes by."""
    return [name for name in failpoints() if name not in ELSEWHERE]


def stage_of(failpoint: str) -> str:
    """The stage that a crash point belongs to. A new one without a stage is a mistake of whoever added it."""
    for stage, beginnings in STAGES.items():
        if failpoint.startswith(tuple(beginnings)):
            return stage
    raise LookupError(f"crash point {failpoint} belongs to no stage: add its beginning to tests/chaos/stages.py")


def points_of(stage: str) -> list[str]:
    """The crash points of a stage."""
    return [name for name in passed_by() if stage_of(name) == stage]


class Passing(threading.Thread):
    """Sees which crash points a flow has come by. `stage` is the furthest so far, and "served" once it is told so."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.stage, self.last = "start", ""
        self._order = list(STAGES)
        self._waiting = set(passed_by())
        self._ended = threading.Event()
        self._passed = {name: threading.Event() for name in self._waiting}
        for name in self._waiting:
            (folder / f"{name}{REACHED}").touch()

    def run(self) -> None:
        while not self._ended.wait(POLL_SECONDS):
            there = {name.removesuffix(REACHED) for name in os.listdir(self.folder) if name.endswith(REACHED)}
            gone = self._waiting - there
            for name in sorted(gone, key=lambda name: self._order.index(stage_of(name))):
                self._pass(name)
            self._waiting -= gone

    def _pass(self, name: str) -> None:
        stage = stage_of(name)
        if self.stage == "start" or self._order.index(stage) >= self._order.index(self.stage):
            self.stage, self.last = stage, name
        self._passed[name].set()

    def wait_for(self, name: str) -> bool:
        """Return once somebody came by; False when the flow ended without."""
        while not self._passed[name].wait(0.05):
            if self._ended.is_set():
                return False
        return True

    def wait_for_end(self) -> None:
        self._ended.wait()

    def end(self) -> None:
        """The flow is served: nobody is waited for any more."""
        self.stage, self.last = SERVED, ""
        self._ended.set()
        for file in self.folder.glob(f"*{REACHED}"):
            file.unlink(missing_ok=True)
