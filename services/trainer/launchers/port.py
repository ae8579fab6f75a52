"""The launcher port: what starts, lists and stops workers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from millstream.operations.v1.stored_pb2 import Process

ENDED, AGAIN = 0, 75
"""Exit codes of a worker: the run has an outcome; it has none yet, start another worker."""


@dataclass(frozen=True)
class EndedWorker:
    """A worker that is gone."""

    process: Process
    exit_code: int | None
    """As of subprocess: below 0 it is minus a signal. None: nobody saw the end."""
    output: str
    """The last that it printed."""


class Launcher(Protocol):
    """Workers of one replica of the trainer, or of the one that ran at its address before."""

    async def launch(self, run_id: str) -> None:
        """Start a worker for the run; it claims the next attempt itself."""
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
