"""The two sides: each serves its registry from processes of its own, and is called from one more."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import free_ports
from millstream import Client
from millstream.errors import MillstreamError
from tests.worlds.platform import wait_until

HERE = Path(__file__).parent
PINNED = HERE / "requirements.txt"
START_SECONDS = 300.0
WORKERS = "4"
"""Of MLflow's server: its own default, which its documentation does not raise for SQLite."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}
"""Nothing but the registry: no telemetry, no workers for background jobs."""


@dataclass(frozen=True)
class Side:
    """A running registry, and the command of its callers."""

    name: str
    address: str
    folder: Path
    callers: Sequence[str]

    def measure(self, name: str, callers: int, seconds: float) -> dict[str, float]:
        """Calls per second by kind; `name` begins the names of models that were not used before."""
        asked = {"address": self.address, "folder": str(self.folder), "name": name}
        command = [*self.callers, json.dumps({**asked, "callers": callers, "seconds": seconds})]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **QUIET})
        if done.returncode:
            raise SystemExit(f"the callers of {self.name} ended with exit code {done.returncode}; see above")
        return {kind: float(figure) for kind, figure in json.loads(done.stdout.splitlines()[-1]).items()}


@contextmanager
def process(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """A process in a group of its own, which is ended with all its children."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **environment}, start_new_session=True
        )
    try:
        yield
    finally:
        for signal_number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(running.pid, signal_number)
                running.wait(10)


@contextmanager
def ours(folder: Path) -> Iterator[Side]:
    """The registry as `python -m services.registry`, on a folder and a SQLite bus, beside neighbours that answer at once."""
    ports = free_ports()
    address, neighbours = ports.listen("registry", 0), ports.listen("trainer", 0)
    environment = {
        "MILLSTREAM_BLOBS": f"directory:{folder / 'blobs'}",
        "MILLSTREAM_BUS": f"sqlite:{folder / 'bus.sqlite'}",
        "MILLSTREAM_LISTEN": address,
        "MILLSTREAM_METRICS_LISTEN": "",
        "MILLSTREAM_TRAINER": neighbours,
        "MILLSTREAM_EVALUATOR": neighbours,
        "MILLSTREAM_RECIPES": "recipes,tests.recipes",
    }
    port = neighbours.rpartition(":")[2]
    beside = [sys.executable, "-m", "bench.registry.neighbours", port, str(os.getpid())]
    with (
        process(beside, folder / "neighbours.log", {}),
        process([sys.executable, "-m", "services.registry"], folder / "registry.log", environment),
        Client(registry=address) as client,
    ):
        wait_until(lambda: _answers(client), "the registry answers", START_SECONDS)
        yield Side("millstream", address, folder, [sys.executable, "-m", "bench.registry.calls"])


def _answers(client: Client) -> bool:
    with suppress(MillstreamError):
        list(client.models())
        return True
    return False


@contextmanager
def mlflow(folder: Path) -> Iterator[Side]:
    """MLflow's own server with its default workers, on SQLite with its defaults: each commit is synced."""
    python = installed()
    port = free_ports().listen("registry", 0).rpartition(":")[2]
    address = f"http://127.0.0.1:{port}"
    command = [str(python.with_name("mlflow")), "server", "--host", "127.0.0.1", "--port", port, "--workers", WORKERS]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--default-artifact-root", str(folder / "artifacts"), "--no-serve-artifacts"]
    # On a busy machine a worker imports MLflow for longer than the 5 s after which uvicorn replaces it.
    command += ["--uvicorn-opts", f"--timeout-worker-healthcheck {START_SECONDS:.0f}"]
    with process(command, folder / "mlflow.log", QUIET):
        wait_until(lambda: _is_healthy(address), f"MLflow's server answers ({folder}/mlflow.log)", START_SECONDS)
        yield Side("mlflow", address, folder, [str(python), str(HERE / "peer_calls.py")])


def _is_healthy(address: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


def version() -> str:
    """The pinned version of the peer."""
    return next(line for line in PINNED.read_text().splitlines() if line.startswith("mlflow==")).removeprefix(
        "mlflow=="
    )


def installed() -> Path:
    """The interpreter of the peer's own environment below ~/.cache/millstream, which is made once a pinned version."""
    home = Path.home() / ".cache" / "millstream" / f"mlflow-{version()}"
    if not (home / "bin" / "mlflow").exists():
        print(f"installing MLflow {version()} into {home}", flush=True)
        began = time.monotonic()
        uv = str(next(Path(".tools").glob("uv-*/bin/uv")))
        subprocess.run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(home)], check=True)
        pip = [uv, "pip", "install", "--quiet", "--python", str(home / "bin" / "python")]
        subprocess.run([*pip, "--requirement", str(PINNED)], check=True)
        print(f"installed in {time.monotonic() - began:.0f} s", flush=True)
    return home / "bin" / "python"
