"""A child process answers, or its parent says how it died; none outlives its parent, its limit or its caller."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servicekit.children import ChildDied, run_child
from servicekit.processes import is_running, process_here
from tests.worlds.waiting import HANG

CHILD = "tests.suites.obedient_child"
LONG = 600.0
ENDLESS = "import re; re.match('(a+)+$', 'a' * 1000 + 'b')"
"""For ever, in C, so that no other thread of the child runs."""


async def ask(code: str, limit: float = LONG) -> bytes:
    return await run_child(CHILD, code.encode(), limit)


async def written(path: Path) -> str:
    async with asyncio.timeout(HANG):
        while not (path.exists() and path.read_text().endswith("\n")):
            await asyncio.sleep(0.01)
    return path.read_text().strip()


async def test_a_child_answers_and_what_it_prints_is_no_part_of_the_answer() -> None:
    assert (
        await ask("import os; print('noise'); os.system('echo noise'); answer = b'x' * 1_000_000") == b"x" * 1_000_000
    )


@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "it was ended by SIGKILL: is there enough memory for it?"),
        ("import os; os.kill(os.getpid(), 11)", "it was ended by SIGSEGV"),
        ("import os; os._exit(7)", "it ended with exit code 7; its log has the reason"),
        ("1 / 0", "it ended with exit code 1; its log has the reason"),
    ],
)
async def test_a_child_that_dies_is_an_error_that_says_how(code: str, how: str) -> None:
    with pytest.raises(ChildDied) as died:
        await ask(code)
    assert str(died.value) == how


async def test_a_child_is_ended_at_its_limit_whatever_it_does(tmp_path: Path) -> None:
    ignores = "import signal, sys; signal.signal(15, signal.SIG_IGN)"
    with pytest.raises(ChildDied, match=r"ended at its time limit of 0\.5 s"):
        await ask(f"{ignores}; {ENDLESS}", 0.5)


async def test_a_cancelled_call_leaves_no_process_of_the_child_or_its_own_children(tmp_path: Path) -> None:
    """Nor does it wait for pipes that a grandchild holds."""
    hint = tmp_path / "hint"
    fork = "import os, subprocess; other = subprocess.Popen(['sleep', '600'], stdout=1, close_fds=False)"
    call = asyncio.create_task(
        ask(f"{fork}; open({str(hint)!r}, 'w').write(f'{{os.getpid()}} {{other.pid}}\\n'); {ENDLESS}")
    )
    pids = [int(pid) for pid in (await written(hint)).split()]
    processes = [process_here(pid) for pid in pids]
    assert [is_running(process) for process in processes] == [True, True]
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert is_running(processes[0]) is False
    async with asyncio.timeout(HANG):
        while is_running(processes[1]):  # killed, but init has to reap it
            await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_ends_when_its_parent_is_killed() -> None:
    request = f"print('hanging', flush=True); {ENDLESS}".encode()
    run = f"asyncio.run(run_child({CHILD!r}, {request!r}, {LONG}))"
    code = f"import asyncio; from servicekit.children import run_child; {run}"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stderr and parent.stderr.readline() == "hanging\n"
        parent.send_signal(signal.SIGKILL)
        assert parent.stderr.read() == "", "the pipe closes when the child has ended, too"


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
async def test_the_kernel_ends_the_child_before_its_parent_when_memory_runs_out() -> None:
    ours = int(Path("/proc/self/oom_score_adj").read_text())
    theirs = int(await ask("answer = open('/proc/self/oom_score_adj', 'rb').read()"))
    assert theirs >= ours and theirs == 1000


async def test_a_parent_goes_on_while_its_child_holds_its_own_interpreter(tmp_path: Path) -> None:
    hint = tmp_path / "hint"
    call = asyncio.create_task(ask(f"import os; open({str(hint)!r}, 'w').write(f'{{os.getpid()}}\\n'); {ENDLESS}"))
    child = process_here(int(await written(hint)))
    assert is_running(child) and not call.done()
    os.kill(child.pid, signal.SIGTERM)
    with pytest.raises(ChildDied, match="SIGTERM"):
        await call
