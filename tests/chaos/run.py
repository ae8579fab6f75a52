"""One seeded run: the scenario with three faults, and its result as one record.

Stuck: the flow has not converged 60 s after the end of the last fault. A kill ends at once, any other fault when its target
is back.
"""

import random
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from millstream.errors import MillstreamError
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.chaos import faults, verdict
from tests.chaos.plan import Aim, Plan
from tests.chaos.probes import flowing
from tests.chaos.scenario import Flow
from tests.chaos.stages import FailpointWatcher
from tests.chaos.target import Platform

CONFIG = {"steps": 60, "checkpoint_every": 10, "evaluate_every": 20, "step_seconds": 0.01}
PAUSE = 0.1
STUCK_SECONDS = 60.0
PROBE_SECONDS = 60.0
NOWHERE = "nowhere"


@dataclass
class Hit:
    """A fault as it was injected. Times are seconds; `at` counts from the run's start."""

    kind: str
    stage: str = NOWHERE
    """The flow's stage; "nowhere" if there was no target."""
    after: str = ""
    """The last failpoint that the flow had reached."""
    at: float = 0.0
    away: float = 0.0
    """From the fault until its target was back."""
    events: float | None = None
    """From then until events were published and read again; None if not probed."""
    disturbed: bool = False
    """Another fault was active during that probe."""


@dataclass
class Record:
    """One line of the results."""

    seed: int
    plan: dict[str, Any]
    seconds: float = 0.0
    closed: float = 0.0
    """From the end of the last fault until the flow had converged; 0 if it had before."""
    attempts: int = 0
    hits: list[Hit] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.stuck)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Faults:
    """The faults of a run, each in a thread of its own that waits for its failpoint."""

    def __init__(self, platform: Platform, plan: Plan, name: str) -> None:
        self.platform, self.name, self.began = platform, name, time.monotonic()
        self.watcher = FailpointWatcher(platform.failpoints)
        self.hits = [Hit(aim.kind) for aim in plan.aims]
        self.errors: list[str] = []
        self._given_up = False
        self._lock = threading.Lock()
        self._active: dict[int, float] = {}
        self._spans: list[tuple[int, float, float]] = []
        self._last = self.began
        self._threads = [
            threading.Thread(target=self._run, args=(number, aim, random.Random(f"{plan.seed}/{number}")), daemon=True)
            for number, aim in enumerate(plan.aims)
        ]

    def start(self) -> None:
        for thread in (self.watcher, *self._threads):
            thread.start()

    def served(self) -> None:
        """The flow has ended: faults whose failpoint was not reached are injected now."""
        self.watcher.end()
        self._join()

    def give_up(self) -> None:
        """The flow has failed: inject no more faults."""
        self._given_up = True
        self.watcher.end()
        self._join()

    def deadline(self) -> float:
        """The time on the monotonic clock at which the flow counts as stuck; it moves on while a fault is active."""
        with self._lock:
            return (time.monotonic() if self._active else self._last) + STUCK_SECONDS

    @property
    def last(self) -> float:
        return self._last

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, number: int, aim: Aim, chance: random.Random) -> None:
        try:
            fault = faults.make(aim.kind, self.platform, chance, self._training_is_over, self.name)
            self._wait(aim)
            if not self._given_up:
                self._hit(number, aim, fault)
        except Exception as error:
            self.errors.append(f"{aim.kind}: {type(error).__name__}: {error}")
            with self._lock:
                self._active.pop(number, None)

    def _training_is_over(self) -> bool:
        return self.watcher.stage not in ("start", "apply", "import", "train")

    def _wait(self, aim: Aim) -> None:
        if aim.after:
            self.watcher.wait_for(aim.after)
        else:
            self.watcher.wait_for_end()
        time.sleep(aim.delay)

    def _hit(self, number: int, aim: Aim, fault: faults.Fault) -> None:
        hit = self.hits[number]
        locks = [self.platform.locks[name] for name in sorted(fault.resources)]
        for lock in locks:
            lock.acquire()
        try:
            if not self._inject(number, hit, fault, aim.lasts):
                return
        finally:
            for lock in locks:
                lock.release()
        if fault.readers:
            back = began = time.monotonic()
            while flowing(self.platform, fault.readers, PROBE_SECONDS) is None:
                if not self._others(number, began, time.monotonic()):
                    self.errors.append(f"{aim.kind}: no events flow {PROBE_SECONDS:g} s after it was over")
                    return
                began = time.monotonic()
            hit.events = round(time.monotonic() - back, 3)
            hit.disturbed = self._others(number, back, time.monotonic())

    def _inject(self, number: int, hit: Hit, fault: faults.Fault, lasts: float) -> bool:
        with self._lock:
            self._active[number] = time.monotonic()
        if not fault.begin():
            with self._lock:
                self._active.pop(number)
            return False
        begun = time.monotonic()
        hit.stage, hit.after, hit.at = self.watcher.stage, self.watcher.last, round(begun - self.began, 3)
        kills = isinstance(fault, faults.Kill | faults.KillWorker)
        with self._lock:
            if kills:
                self._last = max(self._last, begun)
                self._active.pop(number)
        time.sleep(lasts)
        fault.heal()
        back = time.monotonic()
        hit.away = round(back - begun, 3)
        with self._lock:
            self._spans.append((number, begun, back))
            if not kills:
                self._last = max(self._last, back)
                self._active.pop(number)
        return True

    def _others(self, number: int, since: float, until: float) -> bool:
        """Whether another fault was active in that time."""
        with self._lock:
            active = [(other, begun, until) for other, begun in self._active.items()]
            return any(other != number and begun < until and since < end for other, begun, end in active + self._spans)


def run(platform: Platform, plan: Plan, file: Path, undisturbed: TrainingRun) -> Record:
    """One run. `undisturbed` is a training on the same rows and config without faults, the reference."""
    began = time.monotonic()
    record = Record(plan.seed, plan.to_dict())
    name = f"chaos-{plan.seed}"
    injected = Faults(platform, plan, name)
    flow = Flow(platform.world, name, config=CONFIG, deadline=injected.deadline, pause=PAUSE)
    injected.start()
    try:
        trained = flow.through(file)
        injected.served()
        record.attempts = trained.attempt
        wiped = any(hit.kind == "bus wiped" for hit in injected.hits)
        closed = verdict.settle(platform, flow)
        record.closed = round(max(0.0, closed - injected.last), 3)
        record.lost, record.doubled = verdict.judge(platform, flow, undisturbed, wiped)
    except (AssertionError, MillstreamError) as error:
        injected.give_up()
        record.stuck.append(f"at {flow.stage}: {error}")
    record.stuck += injected.errors
    record.hits, record.seconds = injected.hits, round(time.monotonic() - began, 1)
    return record
