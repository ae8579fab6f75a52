"""Ports: service i (1 to 5), replica r (from 0) listens on `base + i + 10 r`; its metrics likewise, from their own base."""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from millstream.defaults import HOST, METRICS_BASE, PORT_BASE, SERVICES, address, metrics_address

MOST_REPLICAS = 5
HIGHEST_PORT = 65_535
_reserved: list[int] = []
"""Locks on the ranges reserved last. Older ones are released: their services listen by then, or have ended."""


@dataclass(frozen=True)
class Ports:
    """The addresses of a platform on the loopback address."""

    base: int = PORT_BASE
    metrics_base: int = METRICS_BASE
    replicas: int = 1

    def listen(self, service: str, replica: int) -> str:
        """`host:port` of a replica's gRPC server."""
        return address(service, self.base + 10 * replica)

    def metrics(self, service: str, replica: int) -> str:
        """`host:port` of a replica's /metrics."""
        return metrics_address(service, self.metrics_base + 10 * replica)

    def address(self, service: str) -> str:
        """The addresses of all replicas of a service, with commas between."""
        return ",".join(self.listen(service, replica) for replica in range(self.replicas))

    def addresses(self) -> dict[str, str]:
        """Each service with the addresses of all its replicas."""
        return {service: self.address(service) for service in SERVICES}

    def out_of_range(self) -> str:
        """Which base leaves a replica without a port; "" if none does."""
        most = HIGHEST_PORT - 10 * (self.replicas - 1) - len(SERVICES)
        for name, base in (("--port-base", self.base), ("--metrics-base", self.metrics_base)):
            if not 0 <= base <= most:
                return f"{name} is {base}: use 0 to {most}, for ports end at {HIGHEST_PORT}"
        return ""

    def taken(self) -> Iterator[tuple[str, str]]:
        """(address, its use) of each address that another process listens on."""
        for replica in range(self.replicas):
            for service in SERVICES:
                for taken, use in (
                    (self.listen(service, replica), service),
                    (self.metrics(service, replica), f"the metrics of {service}"),
                ):
                    if not is_free(int(taken.rpartition(":")[2])):
                        yield taken, use


def metrics_base_for(base: int) -> int:
    """9100 for the usual base; for any other the ports just above the services', so that two platforms do not collide."""
    return METRICS_BASE if base == PORT_BASE else base + 5


def free_ports(replicas: int = 1) -> Ports:
    """Ports that are free now, below the ephemeral range, and that no other caller of this function was given lately."""
    ports, lock = _free_range(replicas)
    _reserved.append(lock)
    if len(_reserved) > 8:
        os.close(_reserved.pop(0))
    return ports


def own_range() -> int:
    """The base of 100 free ports that stay reserved until this process ends: for servers that stop and start again."""
    return _free_range(1)[0].base


def _free_range(replicas: int) -> tuple[Ports, int]:
    for _ in range(100):
        base = random.randrange(10_000, 32_000, 100)
        ports = Ports(base, metrics_base_for(base), replicas)
        if (lock := _reserve(base)) is None:
            continue
        if not any(ports.taken()):
            return ports, lock
        os.close(lock)
    raise SystemExit("there is no free range of 100 ports between 10000 and 32000")


def _reserve(base: int) -> int | None:
    """Reserve a range against callers in any process, while the returned lock file stays open. None if it is reserved."""
    try:
        lock = os.open(Path(tempfile.gettempdir(), f"millstream-ports-{base}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
