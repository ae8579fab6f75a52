"""The launcher port: what starts, lists and stops workers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from millstream.operations.v1.stored_pb2 import Process
from millstream.training.v1.training_run_pb2 import Resources

ENDED, AGAIN = 0, 75
"""Exit codes of a worker: the run has an outcome; it has none yet, start another worker."""


@dataclass(frozen=True)
class EndedWorker:
    """A worker that is gone."""

    process: Process
    exit_code: int | None
    """As of subprocess: below 0 it is minus a signal. None: nobody saw the end."""
    output: bytes
    """The last that it printed."""
    printed: int
    """How many bytes it printed in all."""


class Launcher(Protocol):
    """Workers of one replica of the trainer, or of those that ran before it."""

    async def check(self, resources: Resources) -> None:
        """Raise FailedPrecondition, with what to do, for resources that no worker of this launcher can have."""
        ...

    async def has_room(self, resources: Resources) -> bool:
        """Whether these resources are free for a worker now."""
        ...

    async def launch(self, run_id: str, resources: Resources) -> None:
        """Start a worker for the run; it claims the next attempt itself. Raises Unavailable."""
        ...

    def workers(self) -> dict[str, Process]:
        """By run: the process of each living worker."""
        ...

    def ended(self) -> dict[str, list[EndedWorker]]:
        """By run: the workers that are gone, until they are forgotten; also those that a trainer before this one started."""
        ...

    def forget(self, process: Process) -> None:
        """Remove what is kept of a worker that is gone: its end is recorded. Idempotent."""
        ...

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Register a callback for the end of a worker; it gets the run."""
        ...

    async def stop(self, run_id: str) -> None:
        """Ask the run's worker, if it has one, to save a checkpoint and end; end it by force at a call after a grace."""
        ...
