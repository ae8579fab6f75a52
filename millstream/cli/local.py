"""The platform that `millstream up` runs on a state folder: whether it runs, and where its replicas listen."""

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from millstream.defaults import PORT_BASE, SERVICES

STATE = Path(".millstream")
"""The folder of `millstream up` without --state."""
READY_FILE = "platform.json"
"""In it, while the platform serves: the addresses of all replicas by service, the pid, and the folder."""


@dataclass(frozen=True)
class LocalPlatform:
    """A platform that runs here, by its state folder."""

    state: Path
    addresses: Mapping[str, str]
    """By service, of all replicas, with commas between; empty until it is ready."""

    @property
    def port_base(self) -> int:
        """Where its first replicas listen, see defaults.address()."""
        first = self.addresses.get(SERVICES[0], "").partition(",")[0]
        return int(first.rpartition(":")[2]) - 1 if first else PORT_BASE


def at_same_place(platform: LocalPlatform | None, addresses: Mapping[str, str]) -> bool:
    """Whether the first replica of each service that is named here is one of the platform."""
    firsts = {service: address.partition(",")[0] for service, address in addresses.items()}
    return platform is not None and all(
        first in platform.addresses.get(service, "").split(",") for service, first in firsts.items()
    )


def running_platform(state: Path = STATE) -> LocalPlatform | None:
    """The platform that runs on this folder; None: none does."""
    if not pid_of(state):
        return None
    try:
        found = json.loads((state / READY_FILE).read_text())
        return LocalPlatform(state, {service: str(found[service]) for service in SERVICES})
    except (OSError, ValueError, KeyError, TypeError):
        return LocalPlatform(state, {})


def pid_of(state: Path) -> int:
    """The process that holds the folder's lock; 0: none does."""
    try:
        lock = state / "lock"
        return int(lock.read_text().strip() or 0) if is_held(lock) else 0
    except (OSError, ValueError):
        return 0


def is_held(lock: Path) -> bool:
    """Whether a platform holds the lock. Raises OSError for a file that cannot be opened."""
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
    return False
