"""What every path publishes and handles: SnapshotCreated. Its snapshot_id names the round, its number the place in it.

Times are CLOCK_MONOTONIC in nanoseconds, which all processes of a host share.
"""

import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from servicekit.bus.port import Message
from servicekit.facts.events import to_message
from servicekit.facts.outbox import Fact
from servicekit.ids import hash_of

KEYS = 100
SOURCE = "bench"
PATTERN = "bench/*/*"


def facts(name: str, count: int) -> dict[str, SnapshotCreated]:
    """The facts of a round, by the keys of the objects that state them."""
    return {
        f"bench/{name}/{number}": SnapshotCreated(
            dataset=f"dataset-{number % KEYS}", number=number, snapshot_id=f"{name}/{count}"
        )
        for number in range(count)
    }


def message(key: str, fact: SnapshotCreated) -> Message:
    """The message that an outbox makes of the fact."""
    return to_message(fact, fact.dataset, hash_of(key), SOURCE)


def read_fact(_: str, data: bytes) -> Fact:
    """The event of a stored object, for the outbox."""
    fact = SnapshotCreated.FromString(data)
    return Fact(fact.dataset, fact)


@dataclass(frozen=True)
class Round:
    """What a publishing process is to publish: a line of JSON on its stdin."""

    way: str
    name: str
    count: int
    pause: bool
    """One after the other with a short pause between, else all at once."""


def rounds() -> Iterator[Round]:
    """The rounds that come on stdin, until its end."""
    while line := sys.stdin.readline():
        yield Round(**json.loads(line))


def jitter() -> float:
    """A random pause in seconds, so that publishes do not fall in step with a poll."""
    return random.uniform(0.003, 0.007)


def report(sent: Sequence[int], returned: Sequence[int]) -> None:
    """Print when each publish began, and when it returned to its caller."""
    print(json.dumps({"sent": sent, "returned": returned}), flush=True)


class HandledTimes:
    """Records when each event was handled, and prints the times of a round in the order of its events, once complete."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[int, int]] = {}

    def record(self, snapshot_id: str, number: int) -> None:
        """The event of this number was handled now."""
        name, _, count = snapshot_id.partition("/")
        times = self._rounds.setdefault(name, {})
        if number in times:
            return  # published twice: an outbox publishes at least once
        times[number] = time.monotonic_ns()
        if len(times) == int(count):
            print(json.dumps([at for _, at in sorted(times.items())]), flush=True)
