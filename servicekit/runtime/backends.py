"""Opens the store and the bus that the settings name, as `kind:place`."""

import os
import sys
from pathlib import Path

from millstream.errors import InvalidArgument
from servicekit.blobs.counted import CountedBlobs
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Bus
from servicekit.bus.sqlite.bus import SqliteBus
from servicekit.runtime.settings import Settings


def open_both(settings: Settings) -> tuple[Blobs, Bus]:
    """The store, whose calls are counted, and the bus of a service.

    Ends the process with exit code 2 and one line for an invalid address.
    """
    try:
        return CountedBlobs(open_blobs(settings)), open_bus(settings)
    except InvalidArgument as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def open_blobs(settings: Settings) -> Blobs:
    """`directory:PATH`, `minio:http(s)://HOST:PORT/BUCKET` or `memory:`, with the fault of TEST_BLOBS. Does not connect.

    Raises InvalidArgument.
    """
    blobs = _open_blobs(settings)
    if name := os.environ.get("TEST_BLOBS"):
        from servicekit.blobs.faulty import list_in_vain

        file = Path(name)  # one key a line, read at each listing: a test adds some meanwhile
        return list_in_vain(blobs, lambda: file.read_text().split() if file.exists() else ())
    return blobs


def _open_blobs(settings: Settings) -> Blobs:
    kind, _, place = settings.blobs.partition(":")
    if kind == "directory" and place:
        return DirectoryBlobs(Path(place))
    if kind == "minio" and place:
        from servicekit.blobs.s3.blobs import MinioBlobs

        return MinioBlobs(place, settings.minio)
    if kind == "memory":
        return MemoryBlobs()
    text = f"MILLSTREAM_BLOBS={settings.blobs!r} is no store: use directory:PATH or minio:http://HOST:PORT/BUCKET"
    raise InvalidArgument(text, field="MILLSTREAM_BLOBS")


def open_bus(settings: Settings) -> Bus:
    """`sqlite:PATH`, `kafka:HOST:PORT,…` or `memory:`, with the faults that TEST_BUS names. Raises InvalidArgument."""
    bus = _open_bus(settings)
    if mode := os.environ.get("TEST_BUS"):
        from servicekit.bus.faulty import faulty

        return faulty(bus, mode)
    return bus


def _open_bus(settings: Settings) -> Bus:
    kind, _, place = settings.bus.partition(":")
    if kind == "sqlite" and place:
        return SqliteBus(Path(place))
    if kind == "kafka" and place:
        from servicekit.bus.kafka.bus import KafkaBus

        return KafkaBus(place.split(","), settings.kafka_options())
    if kind == "memory":
        return MemoryBus()
    text = f"MILLSTREAM_BUS={settings.bus!r} is no bus: use sqlite:PATH or kafka:HOST:PORT"
    raise InvalidArgument(text, field="MILLSTREAM_BUS")
