"""Training workers outlive the trainer that started them. A platform that stops asks them to save and end."""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress

from services.trainer.launchers.worker_folder import WorkerFolder


def running(folder: WorkerFolder) -> list[int]:
    """The pids of the workers that are running."""
    return [worker.process.pid for worker in folder.running()]


async def stop(folder: WorkerFolder, seconds: float) -> int:
    """SIGTERM: they write a checkpoint and end. SIGKILL after so many seconds. Returns how many there were."""
    asked = running(folder)
    _send(asked, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + seconds
    while late := set(running(folder)) & set(asked):
        if asyncio.get_running_loop().time() > deadline:
            _send(late, signal.SIGKILL)
            break
        await asyncio.sleep(0.05)
    return len(asked)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
