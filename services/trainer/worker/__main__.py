"""Trains one run: claims an attempt, fits the recipe, and stores an artifact and the outcome *Succeeded*.

`python -m services.trainer.worker RUN_ID`. Exit code 0: the run has an outcome; 75: it has none yet, start another worker.
It writes only under its own attempt, content-addressed artifacts, its outbox markers and *Succeeded*; it needs no bus and
no other service.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from pathlib import Path

from servicekit.facts.outbox import Outbox
from servicekit.logs import fields, setup_logs
from servicekit.runtime.backends import open_blobs
from services.trainer.launchers.port import AGAIN, ENDED
from services.trainer.launchers.worker_folder import WorkerFolder
from services.trainer.store import FACTS, Store
from services.trainer.worker.attempt import Attempt, claim
from services.trainer.worker.settings import WorkerSettings
from services.trainer.worker.trouble import is_trouble

log = logging.getLogger(__name__)


async def main(run_id: str) -> int:
    """Claim an attempt and carry it out; the exit code."""
    settings = WorkerSettings.read()
    setup_logs("worker", settings.log_level)
    try:
        return await work(run_id, settings)
    except Exception as error:
        if not is_trouble(error):
            raise
        log.warning("ended by a trouble", extra={"error": repr(error)})
        return AGAIN


async def work(run_id: str, settings: WorkerSettings) -> int:
    """Claim an attempt and carry it out; the exit code. Raises what stands in the way of both."""
    blobs = open_blobs(settings)
    store = Store(blobs, Outbox(blobs, None, "trainer", FACTS), settings.lease_seconds)
    request = await store.request(run_id)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    number = await claim(store, run_id, stop)
    if not number:
        return ENDED if await store.outcome(run_id) else AGAIN
    folder = WorkerFolder(Path(settings.state)).scratch(os.getpid())
    # A dead worker may have had the same pid.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        with fields(run_id=run_id, attempt=str(number)):
            return await Attempt(store, request, number, settings, folder, stop).carry_out()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def run_and_exit() -> None:
    """Exit without a clean end: a recipe that hangs in native code would keep the loop and the interpreter alive."""
    match sys.argv[1:]:
        case [run_id] if not run_id.startswith("-"):
            exit_code = await main(run_id)
        case arguments:
            WorkerSettings.read(arguments)  # --check and --help end here
            print("usage: python -m services.trainer.worker RUN_ID", file=sys.stderr)
            exit_code = 2
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


if __name__ == "__main__":
    asyncio.run(run_and_exit())
