"""Workers as child processes of this machine."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from typing_extensions import override

from millstream.operations.v1.stored_pb2 import Process
from servicekit.processes import is_running
from services.trainer.launchers.port import Launcher
from services.trainer.launchers.worker_folder import WorkerFolder
from services.trainer.metrics import WORKERS_STARTED

log = logging.getLogger(__name__)

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH")


class ProcessLauncher(Launcher):
    """Workers as processes with sessions of their own, so that they outlive the trainer.

    A trainer that starts again finds the workers of its address (`owner`) in the WorkerFolder.
    """

    def __init__(self, state: Path, owner: str, environment: dict[str, str]) -> None:
        self.folder, self.owner, self.environment = WorkerFolder(state), owner, environment
        self.callbacks: list[Callable[[str], None]] = []
        self.watchers: set[threading.Thread] = set()

    @override
    def on_end(self, callback: Callable[[str], None]) -> None:
        self.callbacks.append(callback)

    @override
    async def launch(self, run_id: str) -> None:
        worker = self._spawn(run_id)
        self.folder.add(worker.pid, run_id, self.owner)
        WORKERS_STARTED.inc()
        log.info("worker started", extra={"run_id": run_id, "pid": worker.pid})
        arguments = (asyncio.get_running_loop(), run_id, worker)
        watcher = threading.Thread(target=self._watch, args=arguments, daemon=True)
        self.watchers.add(watcher)
        watcher.start()

    def _spawn(self, run_id: str) -> "subprocess.Popen[bytes]":
        """Without asyncio, whose transports kill their process when the loop ends: a worker outlives its trainer."""
        kept = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("TEST_")}
        with self.folder.log(run_id).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "services.trainer.worker", run_id],
                env={**kept, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _watch(self, loop: asyncio.AbstractEventLoop, run_id: str, worker: "subprocess.Popen[bytes]") -> None:
        code = worker.wait()
        # The loop is closed when the trainer has ended.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._clear, run_id, worker.pid, code)
        self.watchers.discard(threading.current_thread())

    def _clear(self, run_id: str, pid: int, code: int) -> None:
        log.info("worker ended", extra={"run_id": run_id, "pid": pid, "exit_code": code})
        self.folder.clear(pid)
        if code == 0:
            self.folder.log(run_id).unlink(missing_ok=True)
        for callback in self.callbacks:
            callback(run_id)

    @override
    def workers(self) -> dict[str, Process]:
        found = {}
        for worker in self.folder.recorded():
            if worker.owner != self.owner:
                continue
            if is_running(worker.process):
                found[worker.run_id] = worker.process
            else:
                self.folder.clear(worker.process.pid)
        return found

    @override
    async def stop(self, run_id: str) -> None:
        worker = self.workers().get(run_id)
        if worker:
            with suppress(ProcessLookupError):
                os.kill(worker.pid, signal.SIGTERM)
