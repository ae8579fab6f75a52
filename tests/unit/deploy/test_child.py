"""A child drops foreign settings, and ends with its parent."""

import os
import subprocess
import sys

import pytest

ROUND = "import deploy.local.child as child; child.runpy.run_module = {instead}; child.main('registry', {parent})"


def child(instead: str, parent: int | str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = ROUND.format(instead=instead, parent=parent)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_only_settings_that_the_service_declares_are_kept() -> None:
    shown = "lambda *a, **k: print(a, sorted(n for n in child.os.environ if n.startswith('MILLSTREAM_')))"
    environment = {"MILLSTREAM_BLOBS": "directory:x", "MILLSTREAM_UPLOAD_LIMIT_BYTES": "1"}
    run = child(shown, os.getpid(), **environment)
    assert run.stdout == "('services.registry',) ['MILLSTREAM_BLOBS']\n", run.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_child_whose_parent_is_dead_ends_at_once() -> None:
    run = child("lambda *a, **k: print('ran')", 1)
    assert (run.returncode, run.stdout) == (1, "")


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
@pytest.mark.parametrize("module", ["deploy.servers.guarded"])
def test_a_guarded_command_runs_in_its_folder_and_ends_when_its_parent_is_killed(
    module: str, tmp_path: os.PathLike[str]
) -> None:
    inner = "import os, signal; print(os.getcwd(), flush=True); signal.pause()"
    outer = (
        "import os, subprocess, sys, signal\n"
        f"subprocess.Popen([sys.executable, '-m', {module!r}, str(os.getpid()), {str(tmp_path)!r}, sys.executable, '-c', "
        f"{inner!r}])\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout and parent.stdout.readline().strip() == str(tmp_path)
        parent.kill()
        assert parent.stdout.read() == "", "the pipe closes when the guarded command has ended, too"
