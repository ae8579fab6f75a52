"""Training workers outlive the trainer that started them. A platform that stops asks them to save and end.

`{folder}/{pid}` begins with the worker's start time, so that a pid that was given out again is never touched.
"""

import asyncio
import os
import signal
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from servicekit.processes import is_running, process_here


def living(folder: Path) -> list[int]:
    """The pids of the workers that live."""
    found = []
    for path in folder.glob("[0-9]*"):
        if path.suffix:
            continue
        with suppress(OSError, ValueError, IndexError):
            process = process_here(int(path.name), int(path.read_text().split()[0]))
            if is_running(process):
                found.append(process.pid)
    return found


async def stop(folder: Path, seconds: float) -> int:
    """SIGTERM: they write a checkpoint and end. SIGKILL to those that live after so many seconds. How many there were."""
    asked = living(folder)
    _send(asked, signal.SIGTERM)
    deadline = asyncio.get_running_loop().time() + seconds
    while late := set(living(folder)) & set(asked):
        if asyncio.get_running_loop().time() > deadline:
            _send(late, signal.SIGKILL)
            break
        await asyncio.sleep(0.05)
    return len(asked)


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
