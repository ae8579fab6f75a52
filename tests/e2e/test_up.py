"""deploy.local for an operator: one per folder, clear errors, and a stop or crash that loses nothing."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from deploy.local import workers
from deploy.local.ports import free_ports
from millstream.training.v1.training_run_pb2 import TrainingRun
from tests.e2e import invariants, scenario
from tests.worlds.platform import ROOT, STOP_SECONDS, World, wait_until, world
from tests.worlds.waiting import FLOW


def up(
    *words: str, cwd: Path = ROOT, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.CompletedProcess[str]:
    """`millstream up WORDS`, which must end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}
    clean["PYTHONPATH"] = str(ROOT)
    return subprocess.run(
        [sys.executable, "-m", "millstream", "up", *words],
        cwd=cwd, env={**clean, **environment}, capture_output=True, text=True, timeout=FLOW, check=False,
    )  # fmt: skip


def test_one_platform_per_folder_and_down_ends_it(tmp_path: Path) -> None:
    with world(tmp_path / "state") as platform:
        second = up("--state", str(platform.state), "--port-base", str(free_ports().base))
        assert second.returncode == 1 and "a platform runs on" in second.stderr
        assert "has ended" in platform.cli("down", "--state", str(platform.state))
        assert platform.process and platform.process.wait(STOP_SECONDS) == 0
        assert "no platform runs" in platform.cli("down", "--state", str(platform.state), code=1)


def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    ports = free_ports()
    with socket.create_server(("127.0.0.1", ports.base + 3)):
        run = up("--state", str(tmp_path), "--port-base", str(ports.base))
    assert run.returncode == 1
    assert run.stderr.startswith(f"127.0.0.1:{ports.base + 3} (evaluator) is taken") and run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "environment", "text"),
    [
        (("--set", "lok_seconds=1"), {}, "no service has the setting MILLSTREAM_LOK_SECONDS"),
        (("--set", "listen=0.0.0.0:1"), {}, "deploy.local sets MILLSTREAM_LISTEN itself"),
        ((), {"MILLSTREAM_LOOK_SECOND": "1"}, "no service has the setting MILLSTREAM_LOOK_SECOND"),
    ],
)
def test_a_setting_that_no_service_has_is_refused(
    words: tuple[str, ...], environment: dict[str, str], text: str, tmp_path: Path
) -> None:
    run = up("--state", str(tmp_path), "--port-base", str(free_ports().base), *words, environment=environment)
    assert run.returncode == 1 and text in run.stderr


def test_a_wrong_setting_ends_the_start_with_the_services_error(tmp_path: Path) -> None:
    run = up("--state", str(tmp_path), "--port-base", str(free_ports().base), "--set", "resync_seconds=soon")
    assert run.returncode == 1 and "MILLSTREAM_RESYNC_SECONDS" in run.stderr and "valid number" in run.stderr


def test_up_outside_a_checkout_is_an_error(tmp_path: Path) -> None:
    run = up(cwd=tmp_path)
    assert run.returncode == 1 and "is no checkout of millstream" in run.stderr


def slow_run(platform: World, tmp_path: Path) -> str:
    """A running training that has saved checkpoints. It takes about five seconds in all."""
    with platform.client() as client:
        file = scenario.a_file(tmp_path)
        asked = client.import_dataset(file, scenario.DATASET, recipe="toy_words")
        client.wait_import(scenario.DATASET, asked.request_id, timeout=FLOW)
        by_hand = {**scenario.SPEC, "training": {"automatic": False}}
        client.apply_model(by_hand)
        run = client.train(
            scenario.MODEL, preset="toy", config={"steps": 120, "step_seconds": 0.04, "checkpoint_every": 5}
        )
        for now in client.watch_run(run.run_id, timeout=FLOW):
            if now.progress.step > 10:
                return run.run_id
    raise AssertionError("the run ended before it was polled")


def finished(platform: World, run_id: str) -> TrainingRun:
    with platform.client() as client:
        run = client.wait_run(run_id, timeout=FLOW)
        assert run.state == TrainingRun.STATE_SUCCEEDED, run.reason
        client.wait_served(scenario.MODEL, 1, timeout=FLOW)
        invariants.check(platform.blobs(), client, scenario.MODEL, scenario.DATASET)
        return run


def test_a_training_resumes_after_a_stop_of_the_platform(tmp_path: Path) -> None:
    with world(tmp_path / "state") as platform:
        run_id = slow_run(platform, tmp_path)
        assert len(workers.running(platform.workers)) == 1
        assert platform.stop() == 0
        assert workers.running(platform.workers) == []
        platform.start()
        assert finished(platform, run_id).attempt == 2


def test_after_kill_9_services_end_and_the_worker_is_adopted(tmp_path: Path) -> None:
    with world(tmp_path / "state") as platform:
        run_id = slow_run(platform, tmp_path)
        services = [
            pid
            for service in ("dataprep", "trainer", "evaluator", "registry", "inference")
            for pid in platform.pids(service)
        ]
        assert len(services) == 5
        platform.stop(signal.SIGKILL)
        wait_until(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in services), "the services' end")
        assert len(workers.running(platform.workers)) == 1
        platform.start()
        assert finished(platform, run_id).attempt == 1


def test_a_platform_ends_with_its_parent(tmp_path: Path) -> None:
    base = free_ports().base
    code = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'deploy.local', '--with-parent', '--state', "
        f"{str(tmp_path / 'state')!r}, '--port-base', '{base}'], stdout=subprocess.PIPE, text=True); "
        "print(p.stdout.readline())"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=FLOW, check=True)
    lock = tmp_path / "state/lock"
    wait_until(lambda: lock.read_text() == "", "the platform's end")
