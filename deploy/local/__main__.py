"""`python -m deploy.local`: all five services on this machine, on SQLite and a folder, as supervised processes.

It prints one line `ready {addresses as JSON}` on stdout once every service is SERVING; all else goes to stderr.
SIGTERM or Ctrl-C stops it gracefully: calls in flight finish, and training workers save a checkpoint, from which the next
start resumes.
"""

import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import IO, Any

from deploy.local.options import Platform, arguments, platform_of
from deploy.local.ports import Ports
from deploy.local.supervisor import CannotRun, Supervisor, follow
from millstream.cli.local import STATE
from millstream.defaults import PORT_BASE, SERVICES

STOP_SECONDS, WORKER_SECONDS = 20.0, 60.0


@contextmanager
def locked(state: Path) -> Iterator[IO[str]]:
    """Lock the state folder: one platform at a time. The file holds the pid, and is empty after a clean stop.

    SystemExit if another platform holds it.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = (state / "lock").open("a+")
    except OSError as error:
        raise SystemExit(
            f"--state {state} cannot hold the platform's state ({error.strerror}): name a folder"
        ) from None
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise SystemExit(
                f"a platform runs on {state} already (process {file.read().strip() or 'unknown'}): use it, stop it, or "
                "choose another folder with --state"
            ) from None
        yield file


def check_ports(ports: Ports, patience: float) -> None:
    """SystemExit for a taken port, after up to `patience` seconds: an earlier platform's processes may still be ending."""
    deadline = time.monotonic() + patience
    while taken := next(ports.taken(), None):
        if time.monotonic() > deadline:
            address, use = taken
            raise SystemExit(f"{address} ({use}) is taken: stop what listens there, or choose others with --port-base")
        time.sleep(0.1)


def report(text: str) -> None:
    """Print a line on stderr."""
    print(text, file=sys.stderr, flush=True)


async def run(
    platform: Platform, ready_file: Path | None, ready_seconds: float, verbose: bool, with_parent: bool
) -> None:
    """Run the platform until a signal or, `with_parent`, until the parent ends. A second signal kills the services.

    Raises CannotRun where it is not ready after `ready_seconds`, or a service cannot run.
    """
    stop = asyncio.Event()
    supervisor = Supervisor(platform.children(), report)

    signals = 0

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        stop.set()
        if signals > 1:
            supervisor.kill()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    supervisor.start()
    background = []
    if verbose:
        background.append(asyncio.create_task(follow([child.log for child in supervisor.children])))
    if with_parent:
        background.append(asyncio.create_task(_watch_parent(os.getppid(), stop)))
    running = asyncio.create_task(_serve(platform, supervisor, ready_file, ready_seconds))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
    finally:
        await _end(platform, supervisor, [running, stopping])
        if verbose:
            await asyncio.sleep(0.2)
        for task in background:
            task.cancel()


async def _watch_parent(parent: int, stop: asyncio.Event) -> None:
    while os.getppid() == parent:
        await asyncio.sleep(0.5)
    stop.set()


async def _serve(platform: Platform, supervisor: Supervisor, ready_file: Path | None, ready_seconds: float) -> None:
    from deploy.local.starting import Starting

    started = time.monotonic()
    replicas = {platform.ports.listen(s, r): s for s in SERVICES for r in range(platform.ports.replicas)}
    starting = Starting(replicas, platform.settings, report)
    broken = asyncio.create_task(supervisor.broken())
    serving = asyncio.create_task(starting.until_serving())
    await asyncio.wait([broken, serving], timeout=ready_seconds, return_when=asyncio.FIRST_COMPLETED)
    if broken.done():
        serving.cancel()
        broken.result()
    if not serving.done():
        serving.cancel()
        late = f"not every service serves after {ready_seconds:g} s; their logs are in {platform.logs}. They wait:"
        raise CannotRun(f"{late}\n{starting.missing()}")
    serving.result()
    supervisor.ready = True
    found: dict[str, Any] = {**platform.ports.addresses(), "pid": os.getpid(), "state": str(platform.state)}
    for file in (platform.ready_file, *([ready_file] if ready_file else [])):
        beside = file.with_name(f".{file.name}.part")
        beside.write_text(json.dumps(found))
        beside.replace(file)
    report(f"all five services serve, after {time.monotonic() - started:.1f} s; logs: {platform.logs}; Ctrl-C stops")
    print(f"ready {json.dumps(found)}", flush=True)
    report(_next_step(platform))
    watching = asyncio.create_task(starting.watch_bus())
    try:
        await broken
    finally:
        watching.cancel()


def _next_step(platform: Platform) -> str:
    from recipekit.catalog import Catalog

    base = platform.ports.base
    at = "" if base == PORT_BASE else f" --port-base {base}"
    recipes = Catalog(platform.recipes.split(",")).names()
    where = "" if platform.state == STATE.absolute() else f" --state {quote(str(platform.state))}"
    return (
        f"`millstream status{where}` shows every replica, `millstream down{where}` stops them\n"
        "next, in another terminal: `millstream datasets import FILE -d DATASET --recipe "
        f"{recipes[0] if len(recipes) == 1 else 'RECIPE'} --watch{at}`, with a file of JSON Lines or CSV"
        + (f"; recipes: {', '.join(recipes)}" if len(recipes) > 1 else "")
    )


async def _end(platform: Platform, supervisor: Supervisor, tasks: Sequence[asyncio.Task[Any]]) -> None:
    from deploy.local import workers

    report("stopping")
    await supervisor.stop(STOP_SECONDS)
    for task in tasks:
        task.cancel()
    count = await workers.stop(platform.workers, WORKER_SECONDS)
    report("stopped" + (f"; {count} training workers saved a checkpoint and resume at the next start" if count else ""))


def main() -> None:
    """Run the command. Exit code 1 with the reason if the platform cannot run."""
    options = arguments()
    platform = platform_of(options)
    os.umask(0o077)  # state and logs hold people's data
    with locked(platform.state) as lock:
        check_ports(platform.ports, patience=15.0 if lock.seek(0) == 0 and lock.read() else 0.0)
        platform.ready_file.unlink(missing_ok=True)  # of a platform that was killed
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            asyncio.run(run(platform, options.ready_file, options.ready_seconds, options.verbose, options.with_parent))
        except CannotRun as error:
            raise SystemExit(str(error)) from None
        finally:
            platform.ready_file.unlink(missing_ok=True)
            lock.truncate(0)
            if options.ready_file:
                options.ready_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
