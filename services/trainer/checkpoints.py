"""Where a run's checkpoints are: stored folders under `checkpoints/{run_id}/{attempt}/{step}`."""

from typing import NamedTuple

from servicekit.blobs import artifacts
from servicekit.blobs.port import Blobs


class Checkpoint(NamedTuple):
    """One stored checkpoint. They are ordered by step, then by attempt."""

    step: int
    attempt: int
    prefix: str


def folder_of(run_id: str, attempt: int) -> str:
    """The prefix of an attempt's checkpoints, without a slash at its end."""
    return f"checkpoints/{run_id}/{attempt:010d}"


def prefix_of(run_id: str, attempt: int, step: int) -> str:
    """The prefix of one checkpoint."""
    return f"{folder_of(run_id, attempt)}/{step:010d}"


async def stored(blobs: Blobs, run_id: str) -> list[Checkpoint]:
    """All checkpoints of a run, of whatever attempt; the greatest has the most steps."""
    found = []
    async for prefix in artifacts.stored_under(blobs, f"checkpoints/{run_id}/"):
        _, _, attempt, step = prefix.split("/")
        found.append(Checkpoint(int(step), int(attempt), prefix))
    return found


async def delete(blobs: Blobs, run_id: str) -> None:
    """Delete all checkpoints of a run that has ended. Idempotent. Raises Unavailable."""
    await artifacts.delete(blobs, f"checkpoints/{run_id}")


async def newest_step(blobs: Blobs, run_id: str) -> int:
    """The step of a run's newest checkpoint; 0: it has none."""
    return max([checkpoint.step for checkpoint in await stored(blobs, run_id)], default=0)
