"""A worker that cannot be started or recorded is tried again later, and none is left that nobody knows."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import Unavailable
from services.trainer.launchers.process import ProcessLauncher


def launcher(state: Path) -> ProcessLauncher:
    return ProcessLauncher(state, "here", {}, 1.0)


async def test_a_machine_that_takes_no_files_is_a_passing_trouble(tmp_path: Path) -> None:
    (tmp_path / "workers").touch()
    with pytest.raises(Unavailable, match="no worker can be started"):
        await launcher(tmp_path).launch("run-1")


async def test_a_worker_that_cannot_be_recorded_does_not_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def noted(*arguments: Any, **more: Any) -> "subprocess.Popen[bytes]":
        started.append(popen(*arguments, **more))
        (tmp_path / "workers" / str(started[0].pid)).mkdir()
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", noted)
    mine = launcher(tmp_path)
    with pytest.raises(Unavailable, match="cannot be recorded"):
        await mine.launch("run-1")
    assert started[0].returncode is not None
    assert mine.workers() == {} and mine.ended() == {}


async def test_a_worker_uses_the_machine_as_its_trainer_was_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "LD_LIBRARY_PATH": "/cuda/lib64",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("A_SECRET_OF_THE_TRAINER", "x")
    environments: list[dict[str, str]] = []

    def noted(*_: Any, **more: Any) -> "subprocess.Popen[bytes]":
        environments.append(more["env"])
        raise OSError(12, "no memory for another process")

    monkeypatch.setattr(subprocess, "Popen", noted)
    with pytest.raises(Unavailable, match="no worker can be started"):
        await launcher(tmp_path).launch("run-1")
    assert environments[0].items() >= given.items() and "A_SECRET_OF_THE_TRAINER" not in environments[0]
