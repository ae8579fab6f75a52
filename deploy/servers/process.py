"""A server as a child process that can be stopped, killed, wiped and started again, always at the same address."""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS, STOP_SECONDS = 120.0, 30.0
PAUSE = 0.05
TAIL_LINES = 20
LOG_BYTES = 10 << 20

_starter = ThreadPoolExecutor(1, thread_name_prefix="servers")
"""Linux (PR_SET_PDEATHSIG) ends a child with the thread that started it: this one lives as long as the process."""


class CannotStart(RuntimeError):
    """A server does not run; the text says why and what to do."""


class Server:
    """One server on one folder. A subclass says what to run, and when it is ready."""

    kind = "server"

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / f"{self.kind.lower()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        atexit.register(self.kill)

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The pid of its newest process, running or not."""
        if self._process is None:
            raise RuntimeError(f"{self.kind} was never started")
        return self._process.pid

    def start(self) -> None:
        """Start it and return when it is ready. Raises CannotStart with the end of its log, after at most 120 s."""
        if self.running:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._run()
        deadline = time.monotonic() + READY_SECONDS
        while not self.ready():
            if not self.running:
                raise CannotStart(f"{self.kind} ended with exit code {self._code()}. {self.tail()}")
            if time.monotonic() > deadline:
                self.kill()
                raise CannotStart(f"{self.kind} was not ready after {READY_SECONDS:g} s. {self.tail()}")
            time.sleep(PAUSE)

    def stop(self) -> None:
        """Send SIGTERM and wait for its end, then SIGKILL after 30 s."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL and wait for its end."""
        self._end(signal.SIGKILL)

    def wipe(self) -> None:
        """Delete all its data. Raises RuntimeError while it runs."""
        if self.running:
            raise RuntimeError(f"stop {self.kind} before wiping its data")
        shutil.rmtree(self.data, ignore_errors=True)

    def tail(self) -> str:
        """The last lines of its log since its start."""
        lines = self._logged().splitlines()[-TAIL_LINES:]
        return "\n".join([f"The end of {self.log}:", *lines])

    def ready(self) -> bool:
        """Whether it serves requests now."""
        raise NotImplementedError

    def _run(self) -> None:
        """Prepare and call _spawn."""
        raise NotImplementedError

    def _spawn(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        guard = (sys.executable, "-m", "deploy.servers.guarded", str(os.getpid()), str(self.folder))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = _starter.submit(
                subprocess.Popen,
                [*guard, *command],
                cwd=ROOT,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            ).result()

    def _end(self, number: int) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _code(self) -> int | None:
        return self._process.poll() if self._process else None

    def _logged(self) -> str:
        if not self.log.exists():
            return ""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
