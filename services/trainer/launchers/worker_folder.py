"""The files of this machine's training workers, by pid, for the trainer and for the command that stops the platform."""

import fcntl
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from millstream.operations.v1.stored_pb2 import Process
from servicekit.processes import is_running, process_here, this_process

OUTPUT = "output.log"
"""In a worker's scratch: what it prints once it has an attempt."""
LOG_TAIL = 4000
"""Bytes of the output that are kept with a failure or a death."""


@dataclass(frozen=True)
class Worker:
    """One worker: its process, its run, its GPUs, and the trainer replicas that started it and look after it (addresses)."""

    process: Process
    run_id: str
    owner: str
    started_by: str
    owner_process: Process
    gpus: tuple[str, ...]


class WorkerFolder:
    """`{state}/workers`: `{pid}` holds one line on a worker, `{pid}.files` is scratch, `{run_id}.log` early output.

    The line: `start_time run_id owner started_by owner_pid owner_start_time [gpu …]`. A start time tells a process
    from a later one with the same pid. The files of a dead worker stay until its trainer has recorded its end.
    """

    def __init__(self, state: Path) -> None:
        self.path = state / "workers"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One replica at a time chooses GPUs, or takes over workers. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def add(self, pid: int, run_id: str, owner: str, gpus: Sequence[str] = ()) -> None:
        """Record a worker that was just started. Raises OSError."""
        self._write(Worker(process_here(pid), run_id, owner, owner, this_process(), tuple(gpus)))

    def adopt(self, owner: str) -> None:
        """Make this process the owner of the workers that its address started, and of those whose owner is gone.

        They go on training, so they count among somebody's slots. Raises OSError.
        """
        with self.locked():
            for worker in list(self.recorded()):
                if worker.started_by == owner or is_running(worker.owner_process) is False:
                    self._write(replace(worker, owner=owner, owner_process=this_process()))

    def _write(self, worker: Worker) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        owner, pid = worker.owner_process, worker.process.pid
        words = (worker.process.start_time, worker.run_id, worker.owner, worker.started_by, owner.pid, owner.start_time)
        fresh = self.path / f"{pid}.new"
        fresh.write_text(" ".join(map(str, (*words, *worker.gpus))) + "\n")
        fresh.replace(self.path / str(pid))

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
                start_time, run_id, owner, started_by, owner_pid, owner_start, *gpus = path.read_text().split()
                process = process_here(int(path.name), int(start_time))
                owner_process = process_here(int(owner_pid), int(owner_start))
                yield Worker(process, run_id, owner, started_by, owner_process, tuple(gpus))

    def running(self) -> list[Worker]:
        """The workers whose process lives."""
        return [worker for worker in self.recorded() if is_running(worker.process)]

    def output(self, worker: Worker) -> tuple[bytes, int]:
        """The last that a worker printed, and how much in all: in its attempt, else before it had one."""
        for path in (self.scratch(worker.process.pid) / OUTPUT, self.log(worker.run_id)):
            with suppress(OSError):
                return tail(path), path.stat().st_size
        return b"", 0

    def clear(self, pid: int) -> None:
        """Remove the files of a dead worker. Idempotent."""
        shutil.rmtree(self.scratch(pid), ignore_errors=True)
        for worker in self.recorded():
            if worker.process.pid == pid:
                self.log(worker.run_id).unlink(missing_ok=True)
        (self.path / str(pid)).unlink(missing_ok=True)

    def sweep(self, owner: str) -> None:
        """Remove the scratch of dead workers, except of those whose ends this owner is about to record."""
        recorded = {worker.process.pid: worker for worker in self.recorded()}
        for path in self.path.glob("[0-9]*.files"):
            pid = int(path.name.removesuffix(".files"))
            worker = recorded.get(pid)
            process = worker.process if worker else process_here(pid)
            if not (worker and worker.owner == owner) and is_running(process) is False:
                shutil.rmtree(path, ignore_errors=True)


def tail(path: Path) -> bytes:
    """The last 4000 bytes of a file."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        return file.read()
