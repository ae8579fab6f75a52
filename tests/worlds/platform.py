"""A running platform for a test: deploy.local as a process of its own, on free ports, in a folder of its own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import pytest

from deploy.local.ports import Ports, free_ports
from millstream import Client
from millstream.credentials import Credentials
from millstream.defaults import SERVICES
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus, Message
from servicekit.runtime.backends import open_blobs, open_bus
from services.trainer.launchers.worker_folder import WorkerFolder
from tests.worlds.servers import settings_of, shared_broker, shared_store
from tests.worlds.waiting import FLOW, HANG

ROOT = Path(__file__).resolve().parents[2]
RECIPES = "recipes,tests.recipes"
TOY = ROOT / "tests/recipes/toy_words"
READY_SECONDS, STOP_SECONDS = FLOW, 120
TAIL_LINES = 15
OPEN = Credentials()
WORLDS = ("local", "kafka-minio")
"""What `deploy.local` runs on: SQLite and a folder, or the servers that tests share (tests/worlds/servers.py)."""


def chosen() -> str:
    """The world that tests run in, from TEST_WORLD."""
    return os.environ.get("TEST_WORLD") or WORLDS[0]


@dataclass
class World:
    """One platform on one state folder; it can be stopped and started again."""

    state: Path
    ports: Ports
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    credentials: Credentials = OPEN
    store: Mapping[str, str] = field(default_factory=dict)
    """The settings with which the test itself opens the store; empty: the folder in `state`."""
    process: subprocess.Popen[str] | None = None

    @property
    def addresses(self) -> dict[str, str]:
        return self.ports.addresses()

    @property
    def workers(self) -> WorkerFolder:
        return WorkerFolder(self.state / "trainer")

    def client(self) -> Client:
        return Client(credentials=self.credentials, **self.addresses)

    def blobs(self) -> Blobs:
        """The platform's store, opened by the test itself."""
        return open_blobs(settings_of(self.store or {"blobs": f"directory:{self.state / 'blobs'}"}))

    def bus(self) -> Bus:
        """The platform's bus, opened by the test itself."""
        named = {name: value for name, value in self.settings.items() if name == "bus" or name.startswith("kafka_")}
        return open_bus(settings_of(named or {"bus": f"sqlite:{self.state / 'bus.sqlite'}"}))

    def clean_environment(self) -> dict[str, str]:
        """The environment for a process of this world: without settings of the caller's."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MILLSTREAM_", "TEST_BUS"))}
        return {**kept, **self.environment}

    def start(self) -> None:
        """Start and wait until all five services are SERVING."""
        sets = [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        command = [
            sys.executable, "-m", "deploy.local", "--state", str(self.state), "--recipes", RECIPES,
            "--port-base", str(self.ports.base), "--replicas", str(self.ports.replicas), "--with-parent",
            "--ready-seconds", str(READY_SECONDS), *sets,
        ]  # fmt: skip
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "up.log").open("a") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=self.clean_environment(), stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout
        late = threading.Timer(READY_SECONDS + HANG, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        assert line.startswith("ready "), f"the platform did not start:\n{(self.state / 'up.log').read_text()}"
        ready = json.loads(line.removeprefix("ready "))
        assert {service: ready[service] for service in SERVICES} == self.addresses

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it by a signal; returns its exit code."""
        assert self.process
        self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the platform did not end within {STOP_SECONDS} s:\n{self.tails()}") from None
        finally:
            if self.process.stdout:
                self.process.stdout.close()
            self.process = None

    def cli(self, *words: str, code: int = 0, stdin: str = "") -> str:
        """Run `millstream WORDS` as a process; returns its stdout, or its stderr if `code` is not 0."""
        addresses = {f"MILLSTREAM_{service.upper()}": address for service, address in self.addresses.items()}
        run = subprocess.run(
            [sys.executable, "-m", "millstream", *words],
            cwd=ROOT, env={**self.clean_environment(), **addresses}, input=stdin, capture_output=True, text=True,
            timeout=FLOW, check=False,
        )  # fmt: skip
        assert run.returncode == code, f"millstream {' '.join(words)} ended with {run.returncode}: {run.stderr}"
        return run.stdout if code == 0 else run.stderr

    def pids(self, service: str) -> list[int]:
        """The pids of a service's processes, by their command lines."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if (
                self.process
                and parent == self.process.pid
                and words[1:4] == [b"-m", b"deploy.local.child", service.encode()]
            ):
                found.append(int(folder.name))
        return found

    def tails(self) -> str:
        """The last lines of every log."""
        logs = [self.state / "up.log", *sorted((self.state / "logs").glob("*.log"))]
        parts = []
        for log in logs:
            if log.exists():
                lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
                parts.append("\n".join([f"--- {log.name}", *lines]))
        return "\n".join(parts)


def servers_of(kind: str) -> tuple[dict[str, str], dict[str, str]]:
    """The settings of bus and store. Worlds share the servers; each has its own topics, groups and bucket."""
    if kind == "local":
        return {}, {}
    if kind not in WORLDS:  # not a skip, which would pass
        pytest.fail(f"there is no world {kind!r} yet; there are: {', '.join(WORLDS)}")
    name = f"w-{uuid4().hex[:12]}"
    return {**shared_broker().settings(), "kafka_prefix": f"{name}."}, shared_store().settings(name)


@contextmanager
def world(
    state: Path,
    *,
    replicas: int = 1,
    bus: str = "",
    resync_seconds: float | None = None,
    full_resync_seconds: float | None = None,
    settings: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
    credentials: Credentials = OPEN,
    kind: str = "",
) -> Iterator[World]:
    """A running platform, in the world of TEST_WORLD or of this kind. Logs are shown when a test fails.

    `bus` is a mode of servicekit/bus/faulty.py.
    """
    bus_settings, store = servers_of(kind or chosen())
    resyncs = {"resync_seconds": resync_seconds, "full_resync_seconds": full_resync_seconds}
    resync = {name: str(seconds) for name, seconds in resyncs.items() if seconds is not None}
    faulty = {"TEST_BUS": bus} if bus else {}
    given = {**bus_settings, **store, **resync, **(settings or {})}
    made = World(state, free_ports(replicas), given, {**faulty, **(environment or {})}, credentials, store)
    try:
        made.start()
        yield made
    except BaseException:
        print(made.tails(), file=sys.stderr)
        raise
    finally:
        if made.process:
            made.stop()


def publish(platform: World, *messages: Message) -> None:
    """Publish messages on the bus of a running platform, as another program could."""

    async def publish_all() -> None:
        bus = platform.bus()
        for message in messages:
            await bus.publish(message)
        await bus.close()

    asyncio.run(publish_all())


def wait_until(true: Callable[[], object], what: str, seconds: float = FLOW) -> None:
    """Poll a condition; fails at the timeout with what is missing."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.05)
