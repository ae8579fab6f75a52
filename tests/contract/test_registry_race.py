"""Concurrent replicas, in threads and processes on one directory, register one version a run, without gaps."""

import asyncio
import random
import sys
import threading
from pathlib import Path

from millstream.registry.v1.model_pb2 import ModelSpec, ModelVersion
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.facts.outbox import Outbox
from services.registry.reconcile import RegisterVersion, VersionKey
from services.registry.store import FACTS, Store
from tests.worlds.registry import Trainer

RUNS = [f"run-{number:02d}" for number in range(50)]
PROCESSES, THREADS = 2, 8


def register_all(folder: Path, seed: int) -> None:
    """Register every run, in an order of its own, as one replica of the registry would."""

    async def register() -> None:
        blobs = DirectoryBlobs(folder)
        store = Store(blobs, Outbox(blobs, None, "registry", FACTS))
        register_version = RegisterVersion(store, Trainer(*RUNS))  # type: ignore[arg-type]
        for run in random.Random(seed).sample(RUNS, len(RUNS)):
            await register_version.reconcile(VersionKey(run))

    asyncio.run(register())


def replica(folder: Path, number: int) -> None:
    """One registry process: eight threads that all register everything."""
    threads = [threading.Thread(target=register_all, args=(folder, number * THREADS + i)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


async def test_sixteen_threads_of_two_registries_register_fifty_runs_once_each(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    store = Store(blobs, Outbox(blobs, None, "registry", FACTS))
    await store.specs("toy").append(ModelSpec(model="toy", recipe="toy_words", dataset="words"), request_id="first")
    code = "import sys; from pathlib import Path; from tests.contract.test_registry_race import replica; "
    code += "replica(Path(sys.argv[1]), int(sys.argv[2]))"
    pipe = asyncio.subprocess.PIPE
    processes = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", code, str(tmp_path), str(number), stderr=pipe)
        for number in range(PROCESSES)
    ]
    for process in processes:
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        assert b"Traceback" not in errors, errors.decode()
    entries = await Store(blobs, Outbox(blobs, None, "registry", FACTS)).versions("toy").entries()
    versions: list[ModelVersion] = [entry.message for entry in entries]
    assert [entry.number for entry in entries] == list(range(1, len(RUNS) + 1)), "numbers must be dense"
    assert sorted(version.run_id for version in versions) == RUNS, "each run must have exactly one version"
    times = [entry.time_ns for entry in entries]
    assert times == sorted(times), "a ledger's time never goes back"
