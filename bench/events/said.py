"""What all ways say and hear: SnapshotCreated; its snapshot_id tells of what round it is, its number is its place there.

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
PATTERN = "said/*/*"


def facts(name: str, count: int) -> dict[str, SnapshotCreated]:
    """The facts of a round, by the keys of the objects that state them."""
    return {
        f"said/{name}/{number}": SnapshotCreated(
            dataset=f"dataset-{number % KEYS}", number=number, snapshot_id=f"{name}/{count}"
        )
        for number in range(count)
    }


def message(key: str, fact: SnapshotCreated) -> Message:
    """The message that an outbox makes of the fact."""
    return to_message(fact, fact.dataset, hash_of(key), SOURCE)


def read_fact(_: str, data: bytes) -> Fact:
    """What an outbox needs to know of an object."""
    fact = SnapshotCreated.FromString(data)
    return Fact(fact.dataset, fact)


@dataclass(frozen=True)
class Order:
    """What a process that says facts is told, as a line of JSON on its stdin."""

    way: str
    name: str
    """Of the round."""
    count: int
    pause: bool
    """One after the other with a short pause between, else all at once."""


def orders() -> Iterator[Order]:
    """What comes on stdin, until its end."""
    while line := sys.stdin.readline():
        yield Order(**json.loads(line))


def a_pause() -> float:
    """Seconds: no rhythm that a poll could fall in with."""
    return random.uniform(0.003, 0.007)


def report(sent: Sequence[int], returned: Sequence[int]) -> None:
    """When each fact was handed over, and when whoever said it could go on."""
    print(json.dumps({"sent": sent, "returned": returned}), flush=True)


class Heard:
    """Notes when each fact was handled, and prints the times of a round, in the order of its facts, once it has them all."""

    def __init__(self) -> None:
        self._rounds: dict[str, dict[int, int]] = {}

    def note(self, snapshot_id: str, number: int) -> None:
        name, _, count = snapshot_id.partition("/")
        times = self._rounds.setdefault(name, {})
        if number in times:
            return  # said twice, which an outbox may do
        times[number] = time.monotonic_ns()
        if len(times) == int(count):
            print(json.dumps([at for _, at in sorted(times.items())]), flush=True)
