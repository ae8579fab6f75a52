"""Supervises child processes: restarts those that die, with exponential backoff, and stops them all."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
LONG_LIFE = 5.0
"""Seconds after which a death counts as the first one again."""
WRONG_SETTINGS = 2
LOG_BYTES = 10 << 20


class CannotRun(RuntimeError):
    """A child cannot run, so that a restart is no use; the text says why."""


class Child:
    """One replica of a service: its process now, and those that replace it."""

    def __init__(self, service: str, replica: int, environment: Mapping[str, str], log: Path) -> None:
        self.service, self.replica, self.environment, self.log = service, replica, environment, log
        self.process: asyncio.subprocess.Process | None = None
        self.deaths = 0

    @property
    def name(self) -> str:
        """Such as `registry-0`."""
        return f"{self.service}-{self.replica}"

    async def start(self) -> asyncio.subprocess.Process:
        """Start a process, in a process group of its own; its output is appended to the log."""
        command = (sys.executable, "-m", "deploy.local.child", self.service, str(os.getpid()))
        rotate(self.log)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command,
                env=self.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        return self.process

    def send(self, number: int) -> None:
        """Send a signal to the process, if it is running."""
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    def last_lines(self, count: int = 5) -> str:
        """The last lines of its log; "" if there is none."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:]) if self.log.exists() else ""


class Supervisor:
    """Keeps children running from start() to stop(). `report` is a callback for each restart.

    Until `ready` is set, a child that ends with wrong settings, or three times in a row, ends the start (CannotRun).
    """

    def __init__(self, children: Sequence[Child], report: Callable[[str], None]) -> None:
        self.children, self.report = children, report
        self.ready = False
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start all children at once."""
        for child in self.children:
            self._tasks.append(asyncio.create_task(self._keep(child)))

    async def broken(self) -> None:
        """Wait until a child cannot run, and raise its CannotRun; return only after stop()."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self, seconds: float) -> None:
        """Send SIGTERM to all, and SIGKILL to those that still run after this many seconds."""
        self._stopping.set()
        for child in self.children:
            child.send(signal.SIGTERM)
        _, late = await asyncio.wait(self._tasks, timeout=seconds)
        if late:
            self.report("some services do not end; killing them")
            self.kill()
            await asyncio.wait(late, timeout=5)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def kill(self) -> None:
        """Send SIGKILL to all."""
        for child in self.children:
            child.send(signal.SIGKILL)

    async def _keep(self, child: Child) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            ended = await self._run(child)
            if self._stopping.is_set():
                return
            child.deaths = 1 if time.monotonic() - started > LONG_LIFE else child.deaths + 1
            self._check_can_run(child, ended)
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (child.deaths - 1))
            self.report(f"{child.name} {_format_exit(ended)}; it starts again in {pause:g} s (its log: {child.log})")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)

    async def _run(self, child: Child) -> int | OSError:
        """Run one process to its end: its exit code, or why none could be started."""
        try:
            process = await child.start()
        except OSError as error:
            return error
        if self._stopping.is_set():
            child.send(signal.SIGTERM)
        return await process.wait()

    def _check_can_run(self, child: Child, ended: int | OSError) -> None:
        """Raise CannotRun where a restart is no use. A machine that starts no process now may do so later."""
        if self.ready or isinstance(ended, OSError):
            return
        if ended == WRONG_SETTINGS or (ended > 0 and child.deaths >= 3):
            raise CannotRun(
                f"{child.name} cannot run (exit code {ended}). The end of its log {child.log}:\n{child.last_lines()}"
            )


def _format_exit(code: int | OSError) -> str:
    if isinstance(code, OSError):
        return f"could not be started by this machine ({code.strerror or code})"
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def rotate(log: Path) -> None:
    """Rotate a log above 10 MiB to `.log.1`, replacing the one before; make its folder."""
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


async def follow(logs: Sequence[Path]) -> None:
    """Print on stderr what is appended to the logs from now on, without end."""
    places = {log: log.stat().st_size if log.exists() else 0 for log in logs}
    while True:
        for log, place in places.items():
            if log.exists() and log.stat().st_size > place:
                with log.open("rb") as file:
                    file.seek(place)
                    data = file.read()
                places[log] += len(data)
                sys.stderr.buffer.write(data)
                sys.stderr.flush()
        await asyncio.sleep(0.1)
