"""The files of this machine's training workers, by pid, for the trainer and for the command that stops the platform."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from millstream.operations.v1.stored_pb2 import Process
from servicekit.processes import is_running, process_here

OUTPUT = "output.log"
"""In a worker's scratch: what it prints once it has an attempt."""
LOG_TAIL = 4000
"""Bytes of the output that are kept with a failure or a death."""


@dataclass(frozen=True)
class Worker:
    """One worker: its process, its run, and the trainer replica that started it (its listening address)."""

    process: Process
    run_id: str
    owner: str


class WorkerFolder:
    """`{state}/workers`: `{pid}` holds `start_time run_id owner`, `{pid}.files` is scratch, `{run_id}.log` early output.

    The start time tells a worker from a later process with the same pid. The files of a dead worker stay until its trainer
    has recorded its end.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "workers"

    def add(self, pid: int, run_id: str, owner: str) -> None:
        """Record a worker that was just started."""
        self.path.mkdir(parents=True, exist_ok=True)
        (self.path / str(pid)).write_text(f"{process_here(pid).start_time} {run_id} {owner}\n")

    def scratch(self, pid: int) -> Path:
        """The folder for a worker's own files; the worker creates it."""
        return self.path / f"{pid}.files"

    def log(self, run_id: str) -> Path:
        """The output of a run's newest worker before it claimed an attempt."""
        self.path.mkdir(parents=True, exist_ok=True)
        return self.path / f"{run_id}.log"

    def recorded(self) -> Iterator[Worker]:
        """Every worker that has a file, running or not."""
        for path in self.path.glob("[0-9]*"):
            if path.suffix:
                continue
            with suppress(OSError, ValueError):
                start_time, run_id, owner = path.read_text().split()
                yield Worker(process_here(int(path.name), int(start_time)), run_id, owner)

    def running(self) -> list[Worker]:
        """The workers whose process lives."""
        return [worker for worker in self.recorded() if is_running(worker.process)]

    def output(self, worker: Worker) -> str:
        """The last that a worker printed: in its attempt, else before it had one."""
        for path in (self.scratch(worker.process.pid) / OUTPUT, self.log(worker.run_id)):
            with suppress(OSError):
                return tail(path)
        return ""

    def clear(self, pid: int) -> None:
        """Remove the files of a dead worker. Idempotent."""
        shutil.rmtree(self.scratch(pid), ignore_errors=True)
        for worker in self.recorded():
            if worker.process.pid == pid:
                self.log(worker.run_id).unlink(missing_ok=True)
        (self.path / str(pid)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove scratch that no record of a worker and no process goes with, such as after a reboot."""
        for path in self.path.glob("*.files"):
            pid = path.name.removesuffix(".files")
            if pid.isdecimal() and not (self.path / pid).exists() and is_running(process_here(int(pid))) is False:
                shutil.rmtree(path, ignore_errors=True)


def tail(path: Path) -> str:
    """The last 4000 bytes of a text file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        return file.read().decode(errors="replace")
