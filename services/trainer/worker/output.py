"""What a worker prints, captured in numbered chunks."""

import os
from pathlib import Path

LOG_TAIL = 4000


class CapturedLog:
    """Takes over this process's stdout and stderr, and hands out what was printed in numbered chunks."""

    def __init__(self, path: Path) -> None:
        self.path, self.read, self.chunks = path, 0, 0
        self.pending: list[tuple[int, bytes]] = []
        target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._outside = os.dup(2)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.close(target)

    def unshipped(self) -> list[tuple[int, bytes]]:
        """The same chunk again until shipped() says that it is stored."""
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
        self.pending = []

    def tail(self) -> str:
        return self.path.read_bytes()[-LOG_TAIL:].decode(errors="replace")

    def close(self) -> None:
        os.dup2(self._outside, 1)
        os.dup2(self._outside, 2)
