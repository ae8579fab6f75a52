"""`python -m deploy.local`: all five services on this machine, on SQLite and a folder, as supervised processes.

It prints one line `ready {addresses as JSON}` on stdout once every service is SERVING; all else goes to stderr.
SIGTERM or Ctrl-C stops it gracefully: calls in flight finish, and training workers save a checkpoint, from which the next
start resumes.
"""

import argparse
import asyncio
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from deploy.local.ports import MOST_REPLICAS, Ports, metrics_base_for
from deploy.local.supervisor import CannotRun, Child, Supervisor, follow
from millstream.defaults import METRICS_BASE, PORT_BASE, SERVICES
from services.trainer.launchers.worker_folder import WorkerFolder

PREFIX = "MILLSTREAM_"
READY_SECONDS = 60.0
STOP_SECONDS, WORKER_SECONDS = 20.0, 60.0


@dataclass(frozen=True)
class Platform:
    """What runs, and where its state is."""

    state: Path
    ports: Ports
    recipes: str = "recipes"
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def logs(self) -> Path:
        """The folder of the services' logs."""
        return self.state / "logs"

    @property
    def workers(self) -> WorkerFolder:
        """The trainer's record of its worker processes."""
        return WorkerFolder(self.state / "trainer")

    def own_settings(self, service: str, replica: int) -> dict[str, str]:
        """The settings that make the services one platform. A child drops those that it does not declare (child.py)."""
        named = {
            "blobs": f"directory:{self.state / 'blobs'}",
            "bus": f"sqlite:{self.state / 'bus.sqlite'}",
            "state": str(self.state / service),
            "cache": str(self.state / "cache" / service),
            "recipes": self.recipes,
            "listen": self.ports.listen(service, replica),
            "metrics_listen": self.ports.metrics(service, replica),
            **self.ports.addresses(),
        }
        return {f"{PREFIX}{name.upper()}": value for name, value in named.items()}

    def children(self) -> list[Child]:
        """All replicas. They inherit the environment, but of the MILLSTREAM_ variables only `settings`."""
        passed_on = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        return [
            Child(
                service,
                replica,
                {**passed_on, **self.own_settings(service, replica), **self.settings},
                self.logs / f"{service}-{replica}.log",
            )
            for replica in range(self.ports.replicas)
            for service in SERVICES
        ]


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line; wrong usage is exit code 2."""
    parser = argparse.ArgumentParser(prog="millstream up", description="All five services on this machine.")
    parser.add_argument("--replicas", type=int, default=1, help=f"processes of each service, 1 to {MOST_REPLICAS} (1)")
    parser.add_argument(
        "--port-base",
        type=int,
        default=PORT_BASE,
        help=f"service i, replica r listens on this + i + 10 r ({PORT_BASE})",
    )
    parser.add_argument("--metrics-base", type=int, help=f"the same for metrics ({METRICS_BASE}, or --port-base + 5)")
    parser.add_argument("--state", type=Path, default=Path(".millstream"), help="folder of all state (.millstream)")
    parser.add_argument(
        "--recipes", default="recipes", help="packages whose folders are recipes, with commas between (recipes)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, such as resync_seconds=1"
    )
    parser.add_argument("--ready-file", type=Path, help="write the addresses there, as JSON, once all serve")
    parser.add_argument(
        "--ready-seconds", type=float, default=READY_SECONDS, help="timeout until all services serve (60)"
    )
    parser.add_argument(
        "--with-parent", action="store_true", help="end when the process that started this one has ended"
    )
    parser.add_argument("--verbose", action="store_true", help="show the services' logs")
    options = parser.parse_args(given)
    if not 1 <= options.replicas <= MOST_REPLICAS:
        parser.error(f"--replicas is {options.replicas}: 1 to {MOST_REPLICAS} fit between the ports")
    wrong = [text for text in options.set if "=" not in text]
    if wrong:
        parser.error(f"--set {wrong[0]}: write NAME=VALUE, such as resync_seconds=1")
    return options


def platform_of(options: argparse.Namespace) -> Platform:
    """The platform of these options and of the environment; --set takes precedence. SystemExit for a wrong setting."""
    metrics = metrics_base_for(options.port_base) if options.metrics_base is None else options.metrics_base
    ports = Ports(options.port_base, metrics, options.replicas)
    pairs = (text.split("=", 1) for text in options.set)
    given = {f"{PREFIX}{name.upper().removeprefix(PREFIX)}": value for name, value in pairs}
    named = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    return Platform(options.state.absolute(), ports, options.recipes, check_settings({**named, **given}))


def check_settings(given: dict[str, str]) -> dict[str, str]:
    """Return the settings. SystemExit for one that no service has or that deploy.local sets, and for bad credentials."""
    if not given:
        return given
    import importlib

    from millstream.channel import Credentials
    from millstream.errors import InvalidArgument

    known = {
        variable.name
        for service in SERVICES
        for variable in importlib.import_module(f"services.{service}.settings").Settings.variables()
    }
    ours = {f"{PREFIX}{name.upper()}" for name in ("listen", "metrics_listen", *SERVICES)}
    for name in sorted(given):
        if name in ours:
            raise SystemExit(f"deploy.local sets {name} itself, from --port-base and --replicas: leave it out")
        if name not in known:
            raise SystemExit(f"no service has the setting {name}; there are: {', '.join(sorted(known - ours))}")
    try:
        Credentials.from_env(given).ssl()
    except InvalidArgument as error:
        raise SystemExit(str(error)) from None
    return given


@contextmanager
def locked(state: Path) -> Iterator[IO[str]]:
    """Lock the state folder: one platform at a time. The file holds the pid, and is empty after a clean stop.

    SystemExit if another platform holds it.
    """
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("a+") as file:
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
    if ready_file:
        beside = ready_file.with_name(f".{ready_file.name}.part")
        beside.write_text(json.dumps(found))
        beside.replace(ready_file)
    report(f"all five services serve, after {time.monotonic() - started:.1f} s; logs: {platform.logs}; Ctrl-C stops")
    print(f"ready {json.dumps(found)}", flush=True)
    watching = asyncio.create_task(starting.watch_bus())
    try:
        await broken
    finally:
        watching.cancel()


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
    with locked(platform.state) as lock:
        check_ports(platform.ports, patience=15.0 if lock.seek(0) == 0 and lock.read() else 0.0)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            asyncio.run(run(platform, options.ready_file, options.ready_seconds, options.verbose, options.with_parent))
        except CannotRun as error:
            raise SystemExit(str(error)) from None
        finally:
            lock.truncate(0)
            if options.ready_file:
                options.ready_file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
