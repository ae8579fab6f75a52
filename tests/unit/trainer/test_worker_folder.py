"""A machine's workers are found again by pid, and a later process with the same pid is not one of them."""

import os
from pathlib import Path

from servicekit.processes import process_here
from services.trainer.launchers.worker_folder import LOG_TAIL, OUTPUT, WorkerFolder


def test_a_recorded_worker_is_found_with_its_run_and_its_trainer(tmp_path: Path) -> None:
    WorkerFolder(tmp_path).add(os.getpid(), "run-1", "127.0.0.1:50052")
    (worker,) = WorkerFolder(tmp_path).running()
    assert (worker.run_id, worker.owner) == ("run-1", "127.0.0.1:50052")
    assert worker.process == process_here(os.getpid())


def test_a_pid_that_was_used_again_is_no_running_worker(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.add(os.getpid(), "run-1", "here")
    start_time = process_here(os.getpid()).start_time
    (folder.path / str(os.getpid())).write_text(f"{start_time - 1} run-1 here\n")
    assert [worker.run_id for worker in folder.recorded()] == ["run-1"]
    assert folder.running() == []


def test_scratch_logs_and_files_that_were_cut_short_are_no_workers(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    assert list(folder.recorded()) == []
    folder.log("0-run").write_text("early output")
    folder.scratch(17).mkdir()
    (folder.path / "18").write_text("12345")
    (folder.path / "19").touch()
    assert list(folder.recorded()) == []


def test_clearing_leaves_the_other_workers(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    for pid in (os.getpid(), os.getppid()):
        folder.add(pid, f"run-{pid}", "here")
        folder.scratch(pid).mkdir()
        (folder.scratch(pid) / "weights").touch()
    folder.clear(os.getpid())
    folder.clear(os.getpid())
    assert {path.name for path in folder.path.iterdir()} == {str(os.getppid()), f"{os.getppid()}.files"}


def test_a_sweep_removes_scratch_that_belongs_to_no_worker_and_no_process(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.sweep()
    nobody, unrecorded = 2**22 + 1, os.getppid()
    folder.add(os.getpid(), "run-1", "here")
    for pid in (os.getpid(), unrecorded, nobody):
        folder.scratch(pid).mkdir()
    folder.sweep()
    assert {path.name for path in folder.path.glob("*.files")} == {f"{os.getpid()}.files", f"{unrecorded}.files"}


def test_the_output_of_a_worker_is_that_of_its_attempt_else_that_before_it(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.add(os.getpid(), "run-1", "here")
    (worker,) = folder.recorded()
    assert folder.output(worker) == ""
    folder.log("run-1").write_text("early")
    assert folder.output(worker) == "early"
    folder.scratch(os.getpid()).mkdir()
    (folder.scratch(os.getpid()) / OUTPUT).write_text("x" * 9000 + "late")
    assert folder.output(worker) == "x" * (LOG_TAIL - 4) + "late"
