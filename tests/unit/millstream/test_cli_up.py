"""`millstream up` and `millstream down`: what they start and what they stop."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from millstream.cli.app import app
from tests.worlds.waiting import HANG

HOLDER = """
import fcntl, os, pathlib, signal, sys
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(str(os.getpid())), lock.flush()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a state folder's lock, as a platform does, until SIGTERM."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_down_stops_the_process_that_holds_the_lock(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["down", "--state", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, f"the platform of {tmp_path} has ended\n")
    assert holder.wait(HANG) == 0


@pytest.mark.parametrize("left_over", [None, "", "123456"])
def test_down_without_a_platform_is_exit_code_1(left_over: str | None, tmp_path: Path) -> None:
    if left_over is not None:
        (tmp_path / "lock").write_text(left_over)  # held by no process
    result = CliRunner().invoke(app, ["down", "--state", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (1, f"no platform runs on {tmp_path}\n")


def test_up_needs_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["up"])
    assert result.exit_code == 1 and f"{tmp_path} is no checkout of millstream" in result.stderr


def test_up_becomes_deploy_local_with_the_same_options(tmp_path: Path) -> None:
    (tmp_path / "deploy/local").mkdir(parents=True)
    (tmp_path / "deploy/__init__.py").touch()
    (tmp_path / "deploy/local/__init__.py").touch()
    (tmp_path / "deploy/local/__main__.py").write_text("import os, sys; print(os.getpid(), sys.argv[1:])")
    command = [sys.executable, "-m", "millstream", "up", "--replicas", "2", "--help"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate(timeout=60)
    assert printed == f"{process.pid} ['--replicas', '2', '--help']\n"
    assert process.returncode == 0


def test_a_platform_that_does_not_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millstream.cli.up.STOP_SECONDS", 0.0)
    stubborn = HOLDER.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
    command = [sys.executable, "-c", stubborn, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        result = CliRunner().invoke(app, ["down", "--state", str(tmp_path)])
        process.send_signal(signal.SIGKILL)
    assert (result.exit_code, result.stderr) == (1, f"process {process.pid} does not end\n")
