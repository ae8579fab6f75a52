"""Opens the bus and the store that a setting names: `kind:place`."""

import os
from pathlib import Path

from millrace.errors import InvalidArgument
from servicekit.blobs import Blobs, MemoryBlobs
from servicekit.bus import Bus, MemoryBus
from servicekit.directory import DirectoryBlobs
from servicekit.sqlite import SqliteBus


def open_blobs(address: str) -> Blobs:
    """`directory:PATH` or `memory:`. Raises InvalidArgument."""
    kind, _, place = address.partition(":")
    if kind == "directory" and place:
        return DirectoryBlobs(Path(place))
    if kind == "memory":
        return MemoryBlobs()
    raise InvalidArgument(f"MILLRACE_BLOBS={address!r} is no store: use directory:PATH", field="MILLRACE_BLOBS")


def open_bus(address: str) -> Bus:
    """`sqlite:PATH` or `memory:`. For tests, TEST_BUS names a way to misbehave (servicekit/testing/unruly.py)."""
    bus = _open_bus(address)
    if mode := os.environ.get("TEST_BUS"):
        from servicekit.testing.unruly import unruly

        return unruly(bus, mode)
    return bus


def _open_bus(address: str) -> Bus:
    kind, _, place = address.partition(":")
    if kind == "sqlite" and place:
        return SqliteBus(Path(place))
    if kind == "memory":
        return MemoryBus()
    raise InvalidArgument(f"MILLRACE_BUS={address!r} is no bus: use sqlite:PATH", field="MILLRACE_BUS")
