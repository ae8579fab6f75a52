"""A platform for fault injection: a test controls its connections, servers, disk and clocks."""

import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.ports import free_ports, own_range
from deploy.servers.kafka import Kafka
from deploy.servers.minio import Minio
from deploy.servers.process import Server
from millstream import Credentials
from millstream.defaults import HOST
from tests.suites.proxy import Proxy
from tests.worlds.platform import World

CLOCK = Path(__file__).parent / "clock"
BUCKET = "millstream"
DISK_BYTES = 64 << 20
RESOURCES = ("bus", "store", "clock", "disk", "token")
TOKEN = "the-platform-s-own-token"
LEASE_SECONDS, STOP_SECONDS = 8, 10
"""Shorter than in production, so that a run whose worker hangs at each attempt has ended within minutes."""


@dataclass
class Platform:
    """A world and its dependencies. `servers` and `links` have the keys `bus` and `store`."""

    world: World
    bus: str
    """The setting `bus` of the services."""
    servers: Mapping[str, Server] = field(default_factory=dict)
    links: Mapping[str, Proxy] = field(default_factory=dict)
    disk: Path | None = None
    """The store's file system, small enough to be filled; None where it could not be mounted."""
    locks: Mapping[str, threading.Lock] = field(default_factory=lambda: {name: threading.Lock() for name in RESOURCES})

    @property
    def failpoints(self) -> Path:
        return self.world.state / "failpoints"

    @property
    def token_file(self) -> Path:
        """The token that each service reads at its start."""
        return self.world.state / "token"

    @property
    def vain(self) -> Path:
        """The keys that the store's listings show in vain, one a line."""
        return self.world.state / "vain"

    @property
    def no_device(self) -> Path:
        """The addresses of replicas of inference that cannot load anything, each a file."""
        return self.world.state / "no-device"

    @property
    def clock(self) -> Path:
        return self.world.state / "clock"


def can_mount() -> bool:
    """Whether this process may mount a file system (root)."""
    return (
        os.geteuid() == 0
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own at the folder, as large as DISK_BYTES."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def platform(kind: str, state: Path, replicas: int, bus: str = "") -> Iterator[Platform]:
    """A running platform of the world `local` or `kafka-minio`. `bus`: a mode of servicekit/bus/faulty.py."""
    with ExitStack() as stack:
        for name in ("failpoints", "clock", "no-device"):
            (state / name).mkdir(parents=True)
        (state / "token").write_text(f"{TOKEN}\n")
        (state / "tokens").write_text(f"{TOKEN} platform operator\n")
        made = _local(state, replicas, stack) if kind == "local" else _kafka_minio(state, replicas, stack)
        path = os.pathsep.join([str(CLOCK), *filter(None, [os.environ.get("PYTHONPATH")])])
        faulty = {"TEST_BUS": bus} if bus else {}
        made.world.environment = {
            "TEST_FAILPOINTS": str(made.failpoints), "TEST_CLOCK": str(made.clock), "PYTHONPATH": path, **faulty,
            "TEST_BLOBS": str(made.vain), "TEST_NO_DEVICE": str(made.no_device),
        }  # fmt: skip
        made.world.settings = {
            **made.world.settings, "tokens_file": str(state / "tokens"), "token_file": str(made.token_file),
            "lease_seconds": str(LEASE_SECONDS), "stop_seconds": str(STOP_SECONDS),
        }  # fmt: skip
        made.world.credentials = Credentials(token=TOKEN)
        made.world.start()
        try:
            yield made
        finally:
            if made.world.process:
                made.world.stop()


def _local(state: Path, replicas: int, stack: ExitStack) -> Platform:
    disk = stack.enter_context(small_disk(state / "blobs")) if can_mount() else None
    return Platform(World(state, free_ports(replicas)), f"sqlite:{state / 'bus.sqlite'}", disk=disk)


def _kafka_minio(state: Path, replicas: int, stack: ExitStack) -> Platform:
    """On servers of its own, which the services reach through links, and the test directly."""
    ports = own_range()
    bus_at, store_at = f"{HOST}:{ports + 1}", f"{HOST}:{ports + 11}"
    links = {"bus": stack.enter_context(Proxy(bus_at)), "store": stack.enter_context(Proxy(store_at))}
    advertised = {"advertised.listeners": f"PLAINTEXT://{links['bus'].address}"}
    store = Minio(state / "minio", port=ports + 11)
    servers: dict[str, Server] = {"bus": Kafka(state / "kafka", port=ports + 1, settings=advertised), "store": store}
    for server in servers.values():
        stack.callback(server.kill)
        server.start()
    bus, direct = f"kafka:{links['bus'].address}", store.settings(BUCKET)
    through = {**direct, "bus": bus, "blobs": f"minio:http://{links['store'].address}/{BUCKET}"}
    return Platform(World(state, free_ports(replicas), through, store=direct), bus, servers, links)
