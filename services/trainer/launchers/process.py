"""Workers as child processes of this machine."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from millstream.errors import Unavailable
from millstream.operations.v1.stored_pb2 import Process
from millstream.training.v1.training_run_pb2 import Resources
from servicekit.processes import is_running
from services.trainer.launchers.devices import Devices
from services.trainer.launchers.port import EndedWorker, Launcher
from services.trainer.launchers.worker_folder import Worker, WorkerFolder
from services.trainer.metrics import WORKERS_KILLED, WORKERS_STARTED

log = logging.getLogger(__name__)

_INHERITED = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH"),
    *("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"),
)
"""What a worker gets of the trainer's environment: where things are, and how torch uses the machine."""
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP threads that spin while they wait take the processors from those that they wait for on a busy machine."""


class ProcessLauncher(Launcher):
    """Workers as processes with sessions of their own, so that they outlive the trainer.

    A trainer that starts finds in the WorkerFolder those of its address (`owner`) and of trainers that are gone.
    """

    def __init__(
        self, state: Path, owner: str, environment: dict[str, str], stop_seconds: float, gpus: str = ""
    ) -> None:
        self.folder, self.owner, self.environment = WorkerFolder(state), owner, environment
        self.devices = Devices(gpus)
        self.stop_seconds = stop_seconds
        """From SIGTERM to SIGKILL."""
        self.callbacks: list[Callable[[str], None]] = []
        self.watchers: set[threading.Thread] = set()
        self._watched: set[int] = set()
        """Pids of own children, whose exit codes are still to come."""
        self._exit_codes: dict[int, int] = {}
        self._asked: dict[int, float] = {}
        """When a pid was sent SIGTERM, on the monotonic clock."""
        with suppress(OSError):  # told at the first launch
            self.folder.adopt(owner)
        self.folder.sweep(owner)

    @override
    def on_end(self, callback: Callable[[str], None]) -> None:
        self.callbacks.append(callback)

    @override
    async def check(self, resources: Resources) -> None:
        await self._find_devices()
        self.devices.check(resources)

    @override
    async def has_room(self, resources: Resources) -> bool:
        await self._find_devices()
        return self.devices.choose(resources, self._used_gpus()) is not None

    @override
    async def launch(self, run_id: str, resources: Resources) -> None:
        await self._find_devices()
        try:
            # Replicas on this machine share its GPUs.
            with self.folder.locked():
                gpus = self.devices.choose(resources, self._used_gpus())
                if gpus is None:
                    raise Unavailable("no GPU is free: another worker has just taken it")
                worker = self._spawn(run_id, gpus)
                self._record(worker, run_id, gpus)
        except OSError as error:
            raise Unavailable(f"no worker can be started on this machine: {error}") from None
        WORKERS_STARTED.inc()
        log.info("worker started", extra={"run_id": run_id, "pid": worker.pid, "gpus": gpus})

    async def _find_devices(self) -> None:
        """Ask the driver at the first use, which takes it a while."""
        await asyncio.to_thread(lambda: self.devices.products)

    def _used_gpus(self) -> set[str]:
        """Those of the workers of every replica on this machine."""
        return {gpu for worker in self.folder.recorded() if self._lives(worker) for gpu in worker.gpus}

    def _record(self, worker: "subprocess.Popen[bytes]", run_id: str, gpus: Sequence[str]) -> None:
        """Write the worker down and watch for its end. One that nobody would find again is killed: Unavailable."""
        arguments = (asyncio.get_running_loop(), run_id, worker)
        watcher = threading.Thread(target=self._watch, args=arguments, daemon=True)
        try:
            self.folder.add(worker.pid, run_id, self.owner, gpus)
            watcher.start()
        except (OSError, RuntimeError) as error:
            worker.kill()
            worker.wait()
            with suppress(OSError):
                self.folder.clear(worker.pid)
            raise Unavailable(f"a worker cannot be recorded below {self.folder.path} and watched: {error}") from None
        self._watched.add(worker.pid)
        self.watchers.add(watcher)

    def _spawn(self, run_id: str, gpus: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Without asyncio, whose transports kill their process when the loop ends: a worker outlives its trainer."""
        kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("TEST_")}
        early = self.folder.log(run_id)
        early.unlink(missing_ok=True)
        with early.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "services.trainer.worker", run_id],
                env={**_DEFAULTS, **kept, **self.devices.environment(gpus), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _watch(self, loop: asyncio.AbstractEventLoop, run_id: str, worker: "subprocess.Popen[bytes]") -> None:
        code = worker.wait()
        # The loop is closed when the trainer has ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._note_end, run_id, worker.pid, code)
        self.watchers.discard(threading.current_thread())

    def _note_end(self, run_id: str, pid: int, code: int) -> None:
        log.info("worker ended", extra={"run_id": run_id, "pid": pid, "exit_code": code})
        self._exit_codes[pid] = code
        self._watched.discard(pid)
        for callback in self.callbacks:
            callback(run_id)

    def _lives(self, worker: Worker) -> bool:
        """Its process is there; one of a child that has just ended counts until its exit code is known."""
        return worker.process.pid in self._watched or bool(is_running(worker.process))

    @override
    def workers(self) -> dict[str, Process]:
        own = (worker for worker in self.folder.recorded() if worker.owner == self.owner)
        return {worker.run_id: worker.process for worker in own if self._lives(worker)}

    @override
    def ended(self) -> dict[str, list[EndedWorker]]:
        found: dict[str, list[EndedWorker]] = {}
        for worker in self.folder.recorded():
            if worker.owner == self.owner and not self._lives(worker):
                code, (output, printed) = self._exit_codes.get(worker.process.pid), self.folder.output(worker)
                found.setdefault(worker.run_id, []).append(EndedWorker(worker.process, code, output, printed))
        return found

    @override
    def forget(self, process: Process) -> None:
        self.folder.clear(process.pid)
        self._exit_codes.pop(process.pid, None)
        self._asked.pop(process.pid, None)

    @override
    async def stop(self, run_id: str) -> None:
        worker = self.workers().get(run_id)
        if not worker:
            return
        now = time.monotonic()
        with suppress(ProcessLookupError):
            if worker.pid not in self._asked:
                self._asked[worker.pid] = now
                os.kill(worker.pid, signal.SIGTERM)
            elif now - self._asked[worker.pid] >= self.stop_seconds:
                # It leads its session, so this ends its children too. A stopped process takes no other signal.
                log.warning("worker killed", extra={"run_id": run_id, "pid": worker.pid, "after": self.stop_seconds})
                WORKERS_KILLED.inc()
                os.killpg(worker.pid, signal.SIGKILL)
