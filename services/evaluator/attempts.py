"""The attempts at one report, each claimed first, so that an artifact that kills its evaluator cannot do so for ever."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from millstream.errors import NotFound
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.timestamps import now
from servicekit.backoff import growing
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.facts.lease import Leases
from servicekit.processes import this_process
from services.evaluator.store import folder_of

MOST_FAILURES = 3
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 20.0, 600.0
"""How long a machine rests after its first trouble with a report, and at most."""


@dataclass(frozen=True)
class AttemptStatus:
    """The attempts at one report so far."""

    newest: int
    """The number of the newest attempt; 0: none."""
    in_progress: bool
    """Another process may be working on the newest."""
    failures: tuple[str, ...]
    """How each attempt that counts failed, oldest first."""
    champion_failures: tuple[str, ...] = ()
    """How each attempt ended that died over the champion, oldest first."""

    @property
    def is_exhausted(self) -> bool:
        """Too many attempts failed: the report is an error, with `reason`."""
        return len(self.failures) >= MOST_FAILURES

    @property
    def reason(self) -> str:
        """All failures in one sentence."""
        return _given_up(self.failures)

    @property
    def champion_reason(self) -> str:
        """Why the champion is left out, "" as long as it is not."""
        return _given_up(self.champion_failures) if len(self.champion_failures) >= MOST_FAILURES else ""


def _given_up(failures: Sequence[str]) -> str:
    numbered = (f"{number}. {text}" for number, text in enumerate(failures, 1))
    return f"given up after {len(failures)} failed attempts: {'; '.join(numbered)}"


class Attempts:
    """`{folder of the report}/attempts/{n:010d}/claim`, `…/heartbeat`, and `…/end` for one that ended without a report.

    Keep the object while the report is pending: only repeated reads show that a heartbeat has stopped.
    """

    def __init__(self, blobs: Blobs, report_id: str, lease_seconds: float) -> None:
        self.blobs, self.report_id = blobs, report_id
        self.leases = Leases(blobs, f"{folder_of(report_id)}/attempts", lease_seconds)
        self._ends: dict[int, AttemptEnd] = {}
        self._troubles = 0
        self._resting_until = 0.0

    def rest(self) -> None:
        """After a trouble of this machine: the more in a row, the longer it waits before its next attempt."""
        self._troubles += 1
        self._resting_until = time.monotonic() + growing(self._troubles, FIRST_REST_SECONDS, LONGEST_REST_SECONDS)

    @property
    def rest_seconds(self) -> float:
        """How long this machine still waits; 0.0: it may try now."""
        return max(0.0, self._resting_until - time.monotonic())

    async def status(self) -> AttemptStatus:
        """Call it only while this process has no attempt in progress: a claim of its own is then one that is over.

        Raises DataLoss, Unavailable.
        """
        newest = await self.leases.newest()
        ends: list[AttemptEnd] = []
        in_progress = False
        for number in range(1, newest + 1):
            if end := await self._end(number):
                ends.append(end)
            elif (await self.leases.read(number)).process == this_process():
                continue
            elif number == newest and await self.leases.is_alive(number):
                in_progress = True
            else:
                # It may have ended between the two reads.
                ends.append(await self._end(number) or AttemptEnd(reason="its evaluator died", counts=True))
        failures = tuple(end.reason for end in ends if end.counts)
        return AttemptStatus(newest, in_progress, failures, tuple(end.reason for end in ends if end.champion))

    async def end(self, number: int, reason: str, *, counts: bool, champion: bool = False) -> None:
        """Record why an attempt gave no report.

        `counts`: it is one of the failures after which the report is an error; `champion`: after which it has no champion.
        """
        end = AttemptEnd(reason=reason, counts=counts, champion=champion, time=now())
        await self.blobs.put_if_absent(f"{self.leases.folder(number)}/end", end.SerializeToString())

    async def _end(self, number: int) -> AttemptEnd | None:
        """Read once: it never changes."""
        if number not in self._ends:
            try:
                data = await self.blobs.get(key := f"{self.leases.folder(number)}/end")
            except NotFound:
                return None
            self._ends[number] = decode(AttemptEnd, data, key)
        return self._ends[number]
