"""The launcher port: what starts, lists and stops workers."""

from collections.abc import Callable
from typing import Protocol

from millstream.operations.v1.stored_pb2 import Process


class Launcher(Protocol):
    """Workers of one replica of the trainer, or of the one that ran at its address before."""

    async def launch(self, run_id: str) -> None:
        """Start a worker for the run; it claims the next attempt itself."""
        ...

    def workers(self) -> dict[str, Process]:
        """By run: the process of each living worker."""
        ...

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Register a callback for the end of a worker; it gets the run."""
        ...

    async def stop(self, run_id: str) -> None:
        """Ask the run's worker, if it has one, to save a checkpoint and end."""
        ...
