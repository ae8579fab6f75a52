"""Child processes: what may hang, or kill its process, is done in one. It can be ended, and leaves no memory behind."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL to a child that has exceeded its limit."""
PR_SET_PDEATHSIG = 1  # prctl(2)


class ChildDied(Exception):
    """A child gave no answer. The text says how it ended: by which signal, with which exit code, or at its limit."""


async def run_child(module: str, request: bytes, limit_seconds: float) -> bytes:
    """Run `python -m {module}`, which calls serve_parent(): the request goes to its stdin, the answer comes from its stdout.

    Call it from the main thread. Raises ChildDied. When it returns or raises, also by a cancellation, the child is gone.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        str(os.getpid()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(limit_seconds):
            answer, _ = await child.communicate(request)
    except TimeoutError:
        _signal_group(child.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await child.wait()
        raise ChildDied(f"it was ended at its time limit of {limit_seconds:g} s") from None
    finally:
        # The whole group: a child's own children would outlive it, and hold its pipes open.
        _signal_group(child.pid, signal.SIGKILL)
        await asyncio.shield(child.wait())
    if child.returncode:
        raise ChildDied(_how_it_ended(child.returncode))
    return answer


def serve_parent(answer: Callable[[bytes], bytes]) -> None:
    """The child's side of run_child(): answer one request, and end. What else is printed goes to stderr."""
    end_with(int(sys.argv[1]), signal.SIGKILL)
    _be_killed_first()
    request = sys.stdin.buffer.read()
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        out.write(answer(request))
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that hang in native code would keep the interpreter alive.
    os._exit(0)


def end_with(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send a signal when the process `parent` dies (Linux only); exit at once if it is dead already.

    The kernel takes the end of the thread that started this process for its parent's death.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # it died before prctl
            sys.exit(1)


def _be_killed_first() -> None:
    """When memory runs out, the kernel (Linux) ends this process and not its parent."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _how_it_ended(code: int) -> str:
    if code > 0:
        return f"it ended with exit code {code}; its log has the reason"
    name = signal.Signals(-code).name
    return f"it was ended by {name}{': is there enough memory for it?' if name == 'SIGKILL' else ''}"
