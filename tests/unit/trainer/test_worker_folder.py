"""A machine's workers are found again by pid, and a later process with the same pid is not one of them."""

import os
from pathlib import Path

from servicekit.processes import process_here
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.launchers.worker_folder import LOG_TAIL, OUTPUT, WorkerFolder


def test_a_recorded_worker_is_found_with_its_run_and_its_trainer(tmp_path: Path) -> None:
    WorkerFolder(tmp_path).add(os.getpid(), "run-1", "127.0.0.1:50052")
    (worker,) = WorkerFolder(tmp_path).running()
    assert (worker.run_id, worker.owner) == ("run-1", "127.0.0.1:50052")
    assert worker.process == process_here(os.getpid())


def test_a_pid_that_was_used_again_is_no_running_worker(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.add(os.getpid(), "run-1", "here")
    path, start_time = folder.path / str(os.getpid()), process_here(os.getpid()).start_time
    path.write_text(path.read_text().replace(str(start_time), str(start_time - 1), 1))
    assert [worker.run_id for worker in folder.recorded()] == ["run-1"]
    assert folder.running() == []


def orphan(folder: WorkerFolder, address: str) -> None:
    """This process as a worker of a trainer that listened there, and is gone."""
    folder.add(os.getpid(), "run-1", address)
    path, mine = folder.path / str(os.getpid()), process_here(os.getpid())
    path.write_text(path.read_text().replace(f"{mine.pid} {mine.start_time}\n", f"{2**22 + 1} 7\n"))


def test_a_trainer_at_another_address_takes_over_the_workers_of_one_that_is_gone(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    orphan(folder, "127.0.0.1:50052")
    folder.adopt("127.0.0.1:60052")
    (worker,) = folder.running()
    assert (worker.owner, worker.started_by) == ("127.0.0.1:60052", "127.0.0.1:50052")
    folder.adopt("127.0.0.1:50052")
    assert [worker.owner for worker in folder.running()] == ["127.0.0.1:50052"], "its own again, after a restart"


def test_the_launcher_of_a_trainer_on_other_ports_has_them_from_its_start(tmp_path: Path) -> None:
    orphan(WorkerFolder(tmp_path), "127.0.0.1:50052")
    launcher = ProcessLauncher(tmp_path, "127.0.0.1:60052", {}, 1.0)
    assert list(launcher.workers()) == ["run-1"], "it takes a slot of this trainer now"


def test_the_workers_of_a_replica_that_lives_stay_its_own(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.add(os.getpid(), "run-1", "there", ["GPU-a"])
    folder.adopt("here")
    (worker,) = folder.running()
    assert (worker.owner, worker.gpus) == ("there", ("GPU-a",))


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


def test_a_sweep_removes_the_scratch_of_the_dead_whose_ends_nobody_here_records(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.sweep("here")
    nobody, own, anothers = 2**22 + 1, 2**22 + 2, 2**22 + 3
    folder.add(os.getpid(), "run-1", "there")
    folder.add(own, "run-2", "here")
    folder.add(anothers, "run-3", "there")
    for pid in (os.getpid(), os.getppid(), nobody, own, anothers):
        folder.scratch(pid).mkdir()
    folder.sweep("here")
    kept = {f"{os.getpid()}.files", f"{os.getppid()}.files", f"{own}.files"}
    assert {path.name for path in folder.path.glob("*.files")} == kept


def test_the_output_of_a_worker_is_that_of_its_attempt_else_that_before_it(tmp_path: Path) -> None:
    folder = WorkerFolder(tmp_path)
    folder.add(os.getpid(), "run-1", "here")
    (worker,) = folder.recorded()
    assert folder.output(worker) == (b"", 0)
    folder.log("run-1").write_text("early")
    assert folder.output(worker) == (b"early", 5)
    folder.scratch(os.getpid()).mkdir()
    (folder.scratch(os.getpid()) / OUTPUT).write_text("x" * 9000 + "late")
    assert folder.output(worker) == (b"x" * (LOG_TAIL - 4) + b"late", 9004)
