"""The attempts at one report, each claimed first, so that an artifact that kills its evaluator cannot do so for ever."""

from dataclasses import dataclass

from millstream.errors import NotFound
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.facts.lease import Leases
from servicekit.processes import this_process
from services.evaluator.store import folder_of

MOST_FAILURES = 3


@dataclass(frozen=True)
class AttemptStatus:
    """The attempts at one report so far."""

    newest: int
    """The number of the newest attempt; 0: none."""
    in_progress: bool
    """Another process may be working on the newest."""
    failures: tuple[str, ...]
    """How each attempt that counts failed, oldest first."""

    @property
    def is_exhausted(self) -> bool:
        """Too many attempts failed: the report is an error, with `reason`."""
        return len(self.failures) >= MOST_FAILURES

    @property
    def reason(self) -> str:
        """All failures in one sentence."""
        failures = (f"{number}. {text}" for number, text in enumerate(self.failures, 1))
        return f"given up after {len(self.failures)} failed attempts: {'; '.join(failures)}"


class Attempts:
    """`{folder of the report}/attempts/{n:010d}/claim`, `…/heartbeat`, and `…/end` for one that ended without a report.

    Keep the object while the report is pending: only repeated reads show that a heartbeat has stopped.
    """

    def __init__(self, blobs: Blobs, report_id: str, lease_seconds: float) -> None:
        self.blobs = blobs
        self.leases = Leases(blobs, f"{folder_of(report_id)}/attempts", lease_seconds)

    async def status(self) -> AttemptStatus:
        """Call it only while this process has no attempt in progress: a claim of its own is then one that is over."""
        newest = await self.leases.newest()
        failures: list[str] = []
        in_progress = False
        for number in range(1, newest + 1):
            end = await self._end(number)
            if end is not None:
                failures += [end.reason] if end.counts else []
            elif (await self.leases.read(number)).process == this_process():
                continue
            elif number == newest and await self.leases.is_alive(number):
                in_progress = True
            elif end := await self._end(number):
                # It ended between the two reads.
                failures += [end.reason] if end.counts else []
            else:
                failures.append("its evaluator died")
        return AttemptStatus(newest, in_progress, tuple(failures))

    async def end(self, number: int, reason: str, *, counts: bool) -> None:
        """Record why an attempt gave no report. `counts`: it is one of the failures after which the report is an error."""
        end = AttemptEnd(reason=reason, counts=counts, time=now())
        await self.blobs.put_if_absent(f"{self.leases.folder(number)}/end", end.SerializeToString())

    async def _end(self, number: int) -> AttemptEnd | None:
        try:
            return AttemptEnd.FromString(await self.blobs.get(f"{self.leases.folder(number)}/end"))
        except NotFound:
            return None
