"""What the ended attempts of a run mean: another attempt, after which pause, or the end of the run."""

from collections.abc import Sequence

from millstream.training.v1.attempt_pb2 import AttemptEnd, AttemptFailure
from servicekit.backoff import doubled
from services.trainer.store import Ending, reason_of

MOST_FAILURES = 3
"""Failed attempts after which a run fails."""
MOST_DEATHS = 5
"""Dead workers after which a run fails, unless a newer checkpoint was stored between two deaths."""
MOST_TROUBLES = 100
"""Attempts without a newer checkpoint that ended in trouble of the platform; by the pauses that is most of a working day."""
LONGEST_PAUSE_SECONDS = 300.0
LOGS = "see `millstream runs logs`"


def verdict(endings: Sequence[Ending]) -> str:
    """Why the run must end as failed; "": another attempt may help. The endings of all its attempts, oldest first."""
    failures = [ending for ending in endings if isinstance(ending, AttemptFailure)]
    if invalid := [failure for failure in failures if failure.invalid]:
        return f"{reason_of(invalid[0])}; {LOGS}"
    if len(failures) > 1 and _same(*failures[-2:]):
        return f"{reason_of(failures[-1])} (twice at the same step, so it would fail again); {LOGS}"
    if len(failures) >= MOST_FAILURES:
        return f"{reason_of(failures[-1])} (attempt {len(endings)}, {len(failures)} have failed); {LOGS}"
    gainless = _without_gain(endings)
    deaths = [end for end in gainless if end.cause == AttemptEnd.CAUSE_DIED]
    if len(deaths) >= MOST_DEATHS:
        return f"its worker died {len(deaths)} times without a new checkpoint, at last {deaths[-1].reason}; {LOGS}"
    troubles = [end for end in gainless if end.cause == AttemptEnd.CAUSE_TROUBLE]
    if len(troubles) >= MOST_TROUBLES:
        return f"{len(troubles)} attempts ended without a new checkpoint, at last: {troubles[-1].reason}; {LOGS}"
    return ""


def pause(endings: Sequence[Ending]) -> float:
    """Seconds from the end of the newest attempt to the next: none at first, then twice as many each time."""
    if not endings or (isinstance(newest := endings[-1], AttemptEnd) and newest.cause == AttemptEnd.CAUSE_STOPPED):
        return 0.0
    failures = sum(isinstance(ending, AttemptFailure) for ending in endings)
    in_vain = failures + sum(end.cause != AttemptEnd.CAUSE_STOPPED for end in _without_gain(endings))
    return doubled(in_vain - 1, 1.0, LONGEST_PAUSE_SECONDS) if in_vain > 1 else 0.0


def _without_gain(endings: Sequence[Ending]) -> list[AttemptEnd]:
    """The ends since the run's newest checkpoint was stored."""
    ends = [ending for ending in endings if isinstance(ending, AttemptEnd)]
    return [end for end in ends if end.checkpoint_step >= ends[-1].checkpoint_step]


def _same(one: AttemptFailure, other: AttemptFailure) -> bool:
    """The seed is the run's, so what failed alike at one step fails alike again."""
    return (one.error_class, one.message, one.step) == (other.error_class, other.message, other.step)
