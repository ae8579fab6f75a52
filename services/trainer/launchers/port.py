"""The launcher port: what starts, lists and stops workers."""

from collections.abc import Callable
from typing import Protocol

from millstream.operations.v1.stored_pb2 import Process


class Launcher(Protocol):
    async def launch(self, run_id: str) -> None:
        """Start a worker for the run; it claims the next attempt itself."""
        ...

    def workers(self) -> dict[str, Process]:
        """Runs whose worker, started by this replica (or by one that stood in its place), lives."""
        ...

    def on_end(self, callback: Callable[[str], None]) -> None:
        """Call back with the run of each worker of this replica that ends."""
        ...

    async def stop(self, run_id: str) -> None:
        """Ask the run's worker to save a checkpoint and end."""
        ...
