"""Stops training workers, which outlive the trainer that started them, at the end of the platform."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from services.trainer.launchers.worker_folder import WorkerFolder


def running(folder: WorkerFolder) -> list[int]:
    """The pids of the workers that run now."""
    return [worker.process.pid for worker in folder.running()]


async def stop(folder: WorkerFolder, seconds: float) -> int:
    """Send SIGTERM, by which they save a checkpoint and end, and SIGKILL after the timeout. Returns how many there were."""
    pids = running(folder)
    _send(pids, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + seconds
    while late := set(running(folder)) & set(pids):
        if asyncio.get_running_loop().time() > deadline:
            _send(late, signal.SIGKILL)
            break
        await asyncio.sleep(0.05)
    return len(pids)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
