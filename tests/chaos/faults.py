"""The faults: each is injected, lasts, and is healed; heal() returns once its target is back."""

import asyncio
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from deploy.local.health import serving
from deploy.local.workers import running
from millstream.defaults import SERVICES
from tests.chaos.target import Platform

READERS = ("trainer", "registry", "evaluator", "inference")
"""The services that read events."""
BACK_SECONDS = 60.0
MINUTES, HOURS = 60.0, 3600.0


class Fault(Protocol):
    resources: Sequence[str]
    """Targets that no other fault may have meanwhile."""
    readers: Sequence[str]
    """Services in which events must flow again afterwards."""

    def begin(self) -> bool:
        """Inject the fault. False: there was no target."""
        ...

    def heal(self) -> None: ...


class NotBack(RuntimeError):
    """The target of a fault did not come back in time."""


class Kill:
    """kill -9 of one replica; the supervisor starts another process."""

    resources: Sequence[str] = ()

    def __init__(self, platform: Platform, chance: random.Random, service: str) -> None:
        self.world, self.chance, self.service = platform.world, chance, service
        self.readers: Sequence[str] = (service,) if service in READERS else ()

    def begin(self) -> bool:
        if pid := first(lambda: killed(self.chance, self.world.pids(self.service)), BACK_SECONDS):
            first(lambda: pid not in self.world.pids(self.service), BACK_SECONDS)
        return bool(pid)

    def heal(self) -> None:
        ports = self.world.ports
        asyncio.run(all_serving([ports.listen(self.service, number) for number in range(ports.replicas)]))


class KillWorker:
    """kill -9 of a training worker; the trainer starts the next attempt."""

    resources: Sequence[str] = ()
    readers: Sequence[str] = ()

    signal = signal.SIGKILL

    def __init__(self, platform: Platform, chance: random.Random, over: Callable[[], bool]) -> None:
        self.folder, self.chance, self.over = platform.world.workers, chance, over

    def begin(self) -> bool:
        self.pid = first(lambda: killed(self.chance, running(self.folder), self.signal), BACK_SECONDS, self.over)
        return bool(self.pid)

    def heal(self) -> None:
        first(lambda: set(running(self.folder)) - {self.pid}, BACK_SECONDS, self.over)


class Crash:
    """kill -9 of servers, which are down for a while; with `wipe` they come back without their data."""

    readers: Sequence[str] = READERS

    def __init__(self, platform: Platform, *resources: str, wipe: bool = False) -> None:
        self.resources: Sequence[str] = resources
        self.wipe = wipe
        self.servers = [platform.servers[name] for name in resources]

    def begin(self) -> bool:
        for server in self.servers:
            server.kill()
            if self.wipe:
                server.wipe()
        return True

    def heal(self) -> None:
        for server in self.servers:
            server.start()


class Cut:
    """A network partition: connections end, and the address refuses new ones."""

    readers: Sequence[str] = READERS

    def __init__(self, platform: Platform, resource: str) -> None:
        self.resources: Sequence[str] = (resource,)
        self.link = platform.links[resource]

    def begin(self) -> bool:
        self.link.cut()
        return True

    def heal(self) -> None:
        self.link.heal()


class Slow(Cut):
    """Latency: each piece of data is delayed, in both directions."""

    def __init__(self, platform: Platform, resource: str, seconds: float) -> None:
        super().__init__(platform, resource)
        self.seconds = seconds

    def begin(self) -> bool:
        self.link.slow(self.seconds)
        return True


class Clock:
    """The wall clock of one service, or of all, jumps, and jumps back."""

    resources: Sequence[str] = ("clock",)
    readers: Sequence[str] = ()

    def __init__(self, platform: Platform, chance: random.Random) -> None:
        # An S3 store refuses requests whose clock is 15 minutes off.
        most = 10 * MINUTES if platform.servers else 5 * HOURS
        self.seconds = chance.uniform(-most, most)
        self.file = platform.clock / chance.choice(["all", *SERVICES, "worker"])

    def begin(self) -> bool:
        beside = self.file.with_name(f".{self.file.name}")
        beside.write_text(f"{self.seconds:.3f}")
        beside.replace(self.file)
        return True

    def heal(self) -> None:
        self.file.unlink()


class FullDisk:
    """The store's file system is full; space that is freed meanwhile is filled, too."""

    resources: Sequence[str] = ("disk",)
    readers: Sequence[str] = READERS

    def __init__(self, folder: Path) -> None:
        self.file = folder / ".filler"
        self.healed = threading.Event()
        self.filling = threading.Thread(target=self._fill, daemon=True)

    def begin(self) -> bool:
        self.filling.start()
        return True

    def heal(self) -> None:
        self.healed.set()
        self.filling.join()
        self.file.unlink()

    def _fill(self) -> None:
        with self.file.open("wb", buffering=0) as file:
            while not self.healed.is_set():
                with suppress(OSError):
                    while file.write(b"\0" * 4096):
                        pass
                self.healed.wait(0.005)


class StopWorker(KillWorker):
    """SIGSTOP of a training worker, which then lives and does nothing; the trainer ends it and starts the next attempt."""

    signal = signal.SIGSTOP


def make(kind: str, platform: Platform, chance: random.Random, over: Callable[[], bool], name: str) -> Fault:
    """A fault of this kind, its details by chance. `over` returns whether the training has ended; `name` is the flow's."""
    from tests.chaos import damage, neighbours  # they build on this module

    what, _, how = kind.partition(" ")
    if what == "kill":
        return KillWorker(platform, chance, over) if how == "worker" else Kill(platform, chance, how)
    if what == "token":
        return damage.WrongToken(platform, chance, how)
    if what == "cache":
        return damage.DamagedCache(platform, chance, how)
    makers: Mapping[str, Callable[[], Fault]] = {
        "stop worker": lambda: StopWorker(platform, chance, over),
        "doomed run": lambda: neighbours.DoomedRun(platform, chance),
        "doomed import": lambda: neighbours.DoomedImport(platform),
        "checkpoint damaged": lambda: damage.DamagedCheckpoint(platform, chance, over),
        "listed in vain": lambda: damage.ListedInVain(platform, name),
        "no device": lambda: damage.NoDevice(platform),
        "bus crash": lambda: Crash(platform, "bus"),
        "bus wiped": lambda: Crash(platform, "bus", wipe=True),
        "bus cut": lambda: Cut(platform, "bus"),
        "bus slow": lambda: Slow(platform, "bus", chance.uniform(0.05, 0.5)),
        "store crash": lambda: Crash(platform, "store"),
        "store cut": lambda: Cut(platform, "store"),
        "store slow": lambda: Slow(platform, "store", chance.uniform(0.05, 0.5)),
        "outage": lambda: Crash(platform, "bus", "store"),
        "clock jump": lambda: Clock(platform, chance),
        "disk full": lambda: FullDisk(platform.disk or platform.world.state),
    }
    return makers[kind]()


def first(poll: Callable[[], object], seconds: float, over: Callable[[], bool] = lambda: False) -> object:
    """Poll for the first true result. None once `over`; raises NotBack at the timeout."""
    deadline = time.monotonic() + seconds
    while not (found := poll()):
        if over():
            return None
        if time.monotonic() > deadline:
            raise NotBack(f"still nothing after {seconds:g} s")
        time.sleep(0.005)
    return found


def killed(chance: random.Random, pids: Sequence[int], by: signal.Signals = signal.SIGKILL) -> int:
    """Kill, or stop, one of these processes; returns its pid, 0 if none was left."""
    for pid in chance.sample(sorted(pids), len(pids)):
        with suppress(ProcessLookupError):
            os.kill(pid, by)
            return pid
    return 0


async def all_serving(addresses: Sequence[str]) -> None:
    async with asyncio.timeout(BACK_SECONDS):
        await asyncio.gather(*(serving(address, {}) for address in addresses))
