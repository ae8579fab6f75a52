"""The supervisor with real child processes, each of which runs a small fake service."""

import asyncio
import errno
import os
import sys
from pathlib import Path

import pytest

from deploy.local import supervisor as module
from deploy.local.supervisor import CannotRun, Child, Supervisor, follow, rotate

FAKES = {
    "once": (
        "import pathlib, signal, sys; print('started', flush=True)\n"
        "died = pathlib.Path('died')\n"
        "if not died.exists(): died.touch(); sys.exit(3)\n"
        "signal.pause()"
    ),
    "steady": "import signal; print('started', flush=True); signal.pause()",
    "broken": "import sys; print('MILLSTREAM_BLOBS: unknown', flush=True); sys.exit(2)",
    "failing": "import sys; print('no such module', flush=True); sys.exit(1)",
    "stubborn": (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('started', flush=True)\n"
        "while True: signal.pause()"
    ),
}


class FakeChild(Child):
    """A child that runs a fake's code instead of a service."""

    async def start(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", FAKES[self.service], stdout=log, stderr=log, cwd=self.log.parent, process_group=0
            )
        return self.process


class Watched:
    """A supervisor of one fake, with what it reported."""

    def __init__(self, fake: str, folder: Path) -> None:
        self.reported: list[str] = []
        self.child = FakeChild(fake, 0, {}, folder / "child.log")
        self.supervisor = Supervisor([self.child], self.reported.append)
        self.supervisor.start()

    async def until_started(self, times: int = 1) -> None:
        while not self.child.log.exists() or self.child.log.read_text().count("started") < times:
            await asyncio.sleep(0.01)


async def test_a_child_that_dies_is_restarted_and_stops_at_sigterm(tmp_path: Path) -> None:
    watched = Watched("once", tmp_path)
    await watched.until_started(times=2)
    await watched.supervisor.stop(30)
    assert watched.reported == [
        f"once-0 ended with exit code 3; it starts again in 0.2 s (its log: {watched.child.log})"
    ]
    assert watched.child.process and watched.child.process.returncode == -15


async def test_a_killed_child_is_reported_by_its_signal(tmp_path: Path) -> None:
    watched = Watched("steady", tmp_path)
    await watched.until_started()
    watched.supervisor.kill()
    await watched.until_started(times=2)
    await watched.supervisor.stop(30)
    assert watched.reported[0].startswith("steady-0 was killed by SIGKILL; it starts again in 0.2 s")


async def test_wrong_settings_end_the_start_with_the_end_of_the_log(tmp_path: Path) -> None:
    watched = Watched("broken", tmp_path)
    with pytest.raises(CannotRun, match=r"broken-0 cannot run \(exit code 2\)[^\n]*\nMILLSTREAM_BLOBS: unknown"):
        await watched.supervisor.broken()
    await watched.supervisor.stop(30)
    assert watched.reported == []


async def test_three_failures_in_a_row_end_the_start(tmp_path: Path) -> None:
    watched = Watched("failing", tmp_path)
    with pytest.raises(CannotRun, match=r"failing-0 cannot run \(exit code 1\)"):
        await watched.supervisor.broken()
    await watched.supervisor.stop(30)
    assert [text.rpartition(" (")[0] for text in watched.reported] == [
        "failing-0 ended with exit code 1; it starts again in 0.2 s",
        "failing-0 ended with exit code 1; it starts again in 0.4 s",
    ]


async def test_a_process_that_the_machine_cannot_start_is_tried_again_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, failures = FakeChild.start, [OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) for _ in range(4)]

    async def start_at_last(child: FakeChild) -> asyncio.subprocess.Process:
        if failures:
            raise failures.pop()
        return await start(child)

    monkeypatch.setattr(module, "FIRST_PAUSE", 0.001)
    monkeypatch.setattr(FakeChild, "start", start_at_last)
    watched = Watched("steady", tmp_path)
    await watched.until_started()
    await watched.supervisor.stop(30)
    assert len(watched.reported) == 4
    text = (
        "steady-0 could not be started by this machine (Resource temporarily unavailable); it starts again in 0.001 s"
    )
    assert watched.reported[0].startswith(text)


async def test_a_child_that_ignores_sigterm_is_killed_at_the_timeout(tmp_path: Path) -> None:
    watched = Watched("stubborn", tmp_path)
    await watched.until_started()
    await watched.supervisor.stop(0.1)
    assert watched.reported == ["some services do not end; killing them"]
    assert watched.child.process and watched.child.process.returncode == -9


def test_a_large_log_is_rotated_and_one_old_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 3)
    log = tmp_path / "logs/registry-0.log"
    rotate(log)
    for text in ("one", "two two", "three three"):
        log.write_text(text)
        rotate(log)
    assert [path.name for path in sorted(log.parent.iterdir())] == ["registry-0.log.1"]
    assert log.with_suffix(".log.1").read_text() == "three three"


async def test_follow_prints_what_is_appended(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = tmp_path / "child.log"
    log.write_text("before\n")
    following = asyncio.create_task(follow([log]))
    await asyncio.sleep(0)  # it notes where the log ends
    with log.open("a") as file:
        file.write("after\n")
    printed = b""
    while b"after\n" not in printed:
        await asyncio.sleep(0.01)
        printed += capfdbinary.readouterr().err
    following.cancel()
    assert printed == b"after\n"
