"""The tries at one report, each claimed first, so that an artifact that kills its evaluator cannot do so for ever."""

from dataclasses import dataclass

from millstream.errors import NotFound
from millstream.evaluation.v1.attempt_pb2 import AttemptEnd
from millstream.timestamps import now
from servicekit.blobs.port import Blobs
from servicekit.facts.lease import Leases
from servicekit.processes import this_process
from services.evaluator.store import ATTEMPTS

TRIES = 3


@dataclass(frozen=True)
class AttemptStatus:
    """Where the tries stand. `spent` says how each counted try ended."""

    newest: int
    busy: bool
    spent: tuple[str, ...]

    @property
    def exhausted(self) -> bool:
        return len(self.spent) >= TRIES

    @property
    def reason(self) -> str:
        return f"given up after {len(self.spent)} tries: " + "; ".join(
            f"try {number}: {text}" for number, text in enumerate(self.spent, 1)
        )


class Attempts:
    """`reports/attempts/{report_id}/{n:010d}/claim`, `…/heartbeat`, and `…/end` for a try that ended without a report.

    Keep the object while the report is owed: a silent heartbeat is judged over time.
    """

    def __init__(self, blobs: Blobs, report_id: str, lease_seconds: float) -> None:
        self.blobs = blobs
        self.leases = Leases(blobs, f"reports/{ATTEMPTS}/{report_id}", lease_seconds)

    async def status(self) -> AttemptStatus:
        """To be asked only while this process works on no try: one of its own is then over, however it ended."""
        newest = await self.leases.newest()
        spent: list[str] = []
        busy = False
        for number in range(1, newest + 1):
            end = await self._end(number)
            if end is not None:
                spent += [end.reason] if end.counts else []
            elif (await self.leases.read(number)).process == this_process():
                continue
            elif number == newest and await self.leases.is_alive(number):
                busy = True
            elif end := await self._end(number):
                # It said so between our two reads, and ended.
                spent += [end.reason] if end.counts else []
            else:
                spent.append("its evaluator died")
        return AttemptStatus(newest, busy, tuple(spent))

    async def end(self, number: int, reason: str, *, counts: bool) -> None:
        """Say how a try ended that gave no report."""
        end = AttemptEnd(reason=reason, counts=counts, time=now())
        await self.blobs.put_if_absent(f"{self.leases.folder(number)}/end", end.SerializeToString())

    async def _end(self, number: int) -> AttemptEnd | None:
        try:
            return AttemptEnd.FromString(await self.blobs.get(f"{self.leases.folder(number)}/end"))
        except NotFound:
            return None
