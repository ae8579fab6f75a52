"""The plan of a run: three faults by its seed, the first aimed at the pair that was hit least so far.

A pair is a stage and a kind of fault. Aims are written into the run's record, so a replay needs no history.
"""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from millstream.defaults import SERVICES
from tests.chaos.stages import SERVED, STAGES, failpoints_of

KILLS = tuple(f"kill {name}" for name in (*SERVICES, "worker"))
SERVER_FAULTS = ("bus crash", "bus wiped", "bus cut", "bus slow", "store crash", "store cut", "store slow")
TROUBLES = (
    *("stop worker", "doomed run", "doomed import", "checkpoint damaged", "listed in vain", "no device"),
    *(f"cache {name}" for name in ("evaluator", "inference")),
    *(f"token {name}" for name in ("trainer", "evaluator", "registry", "inference")),
)
"""What lasts, or comes again at each attempt, until the platform ends it."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "local": (*KILLS, *TROUBLES, "clock jump", "disk full"),
    "kafka-minio": (*KILLS, *TROUBLES, *SERVER_FAULTS, "clock jump"),
}
OUTAGE, OUTAGE_SECONDS = "outage", 60.0
LASTS = {"bus crash": 5.0, "bus wiped": 2.0, "store crash": 5.0, **{f"token {name}": 30.0 for name in SERVICES}}
LASTS_ELSE = 4.0
LONGEST_DELAY = 0.02
"""Seconds from the failpoint to the fault: most stages last some tens of milliseconds."""
ONLY = {"kill worker": ("train",), "stop worker": ("train",), "checkpoint damaged": ("train",)}
"""Kinds that can hit in some stages only: there is a worker while there is a training."""
PER_PLATFORM = 5
RUNS_OF_A_SEED = 1000

Pair = tuple[str, str]


@dataclass(frozen=True)
class Aim:
    """One planned fault: its kind, the failpoint that triggers it ("": the end), its delay and duration."""

    kind: str
    after: str
    delay: float
    lasts: float


@dataclass(frozen=True)
class Plan:
    """The faults of one run, and the platform that it needs."""

    seed: int
    world: str
    replicas: int
    bus: str
    """The mode of the faulty bus (servicekit/bus/faulty.py); "": a healthy one."""
    aims: tuple[Aim, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Plan":
        return cls(**{**found, "aims": tuple(Aim(**aim) for aim in found["aims"])})


def pairs(world: str) -> list[Pair]:
    """Every pair that the first fault can be aimed at."""
    return [(stage, kind) for kind in KINDS[world] for stage in (*STAGES, SERVED) if stage in ONLY.get(kind, (stage,))]


def plan(seed: int, world: str, hits: Counter[Pair], kinds: tuple[str, ...] = ()) -> Plan:
    """The faults of this seed, of all kinds of the world or of the given ones."""
    chance = random.Random(seed)
    number = seed % RUNS_OF_A_SEED
    group = number // PER_PLATFORM
    possible = [pair for pair in pairs(world) if not kinds or pair[1] in kinds]
    least = min(hits[pair] for pair in possible)
    first = chance.choice([pair for pair in possible if hits[pair] == least])
    drawn = [chance.choice(kinds or KINDS[world]) for _ in range(2)]
    others = [chance.choice([pair for pair in possible if pair[1] == kind]) for kind in drawn]
    aims = [_aim(chance, *pair) for pair in (first, *others)]
    if world != "local" and number % 10 == 9:
        aims[1] = Aim(OUTAGE, aims[1].after, aims[1].delay, OUTAGE_SECONDS)
    return Plan(seed, world, 1 + group % 2, "duplicating" if group % 4 >= 2 else "", tuple(aims))


def covering(seed: int, world: str, outage_seconds: float) -> list[Plan]:
    """Each kind of fault of the world once, three a run; half of the runs with two replicas."""
    chance = random.Random(seed)
    kinds = [kind for kind in KINDS[world] if kind != "disk full"]
    chance.shuffle(kinds)
    groups = [kinds[start : start + 3] for start in range(0, len(kinds), 3)]
    groups += [["disk full"]] if "disk full" in KINDS[world] else [[OUTAGE]]
    found = []
    for number, group in enumerate(groups):
        stages = {kind: [stage for stage, of in pairs(world) if of == kind] or list(STAGES) for kind in group}
        aims = [_aim(chance, chance.choice(stages[kind]), kind) for kind in group]
        if group == [OUTAGE]:
            aims = [replace(aims[0], lasts=outage_seconds)]
        replicas = 1 + (number >= len(groups) // 2)
        found.append(
            Plan(seed * RUNS_OF_A_SEED + number, world, replicas, "duplicating" if replicas == 2 else "", tuple(aims))
        )
    return found


def _aim(chance: random.Random, stage: str, kind: str) -> Aim:
    places = [] if stage == SERVED else failpoints_of(stage)
    if kind == "stop worker":
        # One that has claimed no attempt is ended after two minutes (CLAIM_SECONDS), when the run would count as stuck.
        places = [name for name in places if name.startswith("worker.")]
    after = chance.choice(places) if places else ""
    return Aim(kind, after, round(chance.uniform(0, LONGEST_DELAY), 4), _lasts(chance, kind))


def _lasts(chance: random.Random, kind: str) -> float:
    return (
        0.0
        if kind in (*KILLS, "stop worker", "checkpoint damaged")
        else round(chance.uniform(0, LASTS.get(kind, LASTS_ELSE)), 3)
    )
