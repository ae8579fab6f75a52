"""The output of a worker, captured in numbered chunks."""

import os
from pathlib import Path

from services.trainer.launchers.worker_folder import tail


class CapturedLog:
    """Redirects this process's stdout and stderr to a file, and hands it out in numbered chunks."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.chunks = path, 0, 0
        self.pending: list[tuple[int, bytes]] = []
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._outside = os.dup(2)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)

    def unshipped(self) -> list[tuple[int, bytes]]:
        """(number, chunk): the same one again until shipped() is called; nothing while there is no new output."""
        if not self.pending:
            with self.path.open("rb") as file:
                file.seek(self.read)
                data = file.read()
            if data:
                self.read += len(data)
                self.chunks += 1
                self.pending = [(self.chunks, data)]
        return self.pending

    def shipped(self) -> None:
        """The chunk is stored."""
        self.pending = []

    def tail(self) -> str:
        """The newest output as text."""
        return tail(self.path)

    def close(self) -> None:
        """Give stdout and stderr back."""
        os.dup2(self._outside, 1)
        os.dup2(self._outside, 2)
