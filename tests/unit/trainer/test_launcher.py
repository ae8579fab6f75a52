"""A worker that cannot be started or recorded is tried again later, and none is left that nobody knows."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import Unavailable
from millstream.training.v1.training_run_pb2 import Resources
from services.trainer.launchers.process import ProcessLauncher


def launcher(state: Path) -> ProcessLauncher:
    return ProcessLauncher(state, "here", {}, 1.0)


async def test_a_machine_that_takes_no_files_is_a_passing_trouble(tmp_path: Path) -> None:
    (tmp_path / "workers").touch()
    with pytest.raises(Unavailable, match="no worker can be started"):
        await launcher(tmp_path).launch("run-1", Resources())


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
        await mine.launch("run-1", Resources())
    assert started[0].returncode is not None
    assert mine.workers() == {} and mine.ended() == {}


async def test_a_worker_uses_the_machine_as_its_trainer_was_told_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "LD_LIBRARY_PATH": "/cuda/lib64",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "3",
        "OMP_WAIT_POLICY": "ACTIVE",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("A_SECRET_OF_THE_TRAINER", "x")
    environment = await environment_of_a_worker(tmp_path, monkeypatch)
    assert environment.items() >= given.items() and "A_SECRET_OF_THE_TRAINER" not in environment


async def test_threads_of_a_worker_do_not_spin_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert (await environment_of_a_worker(tmp_path, monkeypatch))["OMP_WAIT_POLICY"] == "PASSIVE"


async def environment_of_a_worker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a worker would get, on a machine that has no memory for another process."""
    environments: list[dict[str, str]] = []

    def noted(*_: Any, **more: Any) -> "subprocess.Popen[bytes]":
        environments.append(more["env"])
        raise OSError(12, "no memory for another process")

    monkeypatch.setattr(subprocess, "Popen", noted)
    with pytest.raises(Unavailable, match="no worker can be started"):
        await launcher(folder).launch("run-1", Resources())
    return environments[0]
