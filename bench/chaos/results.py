"""The recorded runs, one JSON object a line, and the table of them."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.chaos.plan import Pair
from tests.chaos.run import NOWHERE
from tests.chaos.stages import SERVED, STAGES

COLUMNS = (*STAGES, SERVED)
EVENTS_SECONDS = {"kill": 5.0, "bus": 10.0, "outage": 10.0}
"""Limit in seconds until events flow again after the service, or the broker, is back, by the first word of a kind."""


class Results:
    """The records of one world by seed; of a seed that was run twice, the newer one."""

    def __init__(self, file: Path, world: str) -> None:
        self.file = file
        self.records = {record["seed"]: record for record in read(file) if record["world"] == world}

    def hits(self) -> Counter[Pair]:
        return Counter((hit["stage"], hit["kind"]) for record in self.records.values() for hit in record["hits"])

    def add(self, record: dict[str, Any]) -> None:
        """Append; an older record of the seed is replaced."""
        again = record["seed"] in self.records
        self.records[record["seed"]] = record
        if again:
            key = (record["world"], record["seed"])
            kept = [old for old in read(self.file) if (old["world"], old["seed"]) != key]
            beside = self.file.with_name(f".{self.file.name}.part")
            beside.write_text("".join(f"{json.dumps(each)}\n" for each in [*kept, record]))
            beside.replace(self.file)
        else:
            with self.file.open("a") as file:
                file.write(f"{json.dumps(record)}\n")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(file: Path) -> str:
    """All worlds, each with its faults: in which stage they hit, and how long the recovery took."""
    records = read(file)
    worlds = sorted({record["world"] for record in records})
    parts = ["# Faults, where they hit, and the recovery\n", HEAD]
    parts += [_world(world, [record for record in records if record["world"] == world]) for world in worlds]
    return "\n".join(parts)


HEAD = """Written by `python -m bench.chaos` from `results.jsonl`. *away*: until the target was back. *events*: from then
until events were published and read again on every partition, where no other fault was active meanwhile. Seconds, median
and most. *late*: above the limit (10 s after the broker is ready, 5 s after a killed service is back).
"""


def _world(world: str, records: Sequence[Mapping[str, Any]]) -> str:
    hits = [hit for record in records for hit in record["hits"]]
    kinds = sorted({hit["kind"] for hit in hits})
    runs, seconds = len(records), sum(record["seconds"] for record in records)
    bad = {name: sum(bool(record[name]) for record in records) for name in ("lost", "doubled", "stuck")}
    two = sum(record["plan"]["replicas"] == 2 for record in records)
    duplicated = sum(record["plan"]["bus"] == "duplicating" for record in records)
    closed = [record["closed"] for record in records if not record["stuck"]]
    head = [
        f"## {world}\n",
        f"{runs} runs in {seconds / 60:.0f} min, {two} with two replicas of each service, {duplicated} with every event "
        f"duplicated and reordered: **{bad['lost']} lost, {bad['doubled']} doubled, {bad['stuck']} stuck**. All was closed "
        f"{_spread(closed)} s after the last fault.\n",
        f"| fault | hits | {' | '.join(COLUMNS)} | away | events | late |",
        f"|---|{'---|' * (len(COLUMNS) + 4)}",
    ]
    return "\n".join([*head, *(_row(kind, [hit for hit in hits if hit["kind"] == kind]) for kind in kinds)]) + "\n"


def _row(kind: str, hits: Sequence[Mapping[str, Any]]) -> str:
    there = [hit for hit in hits if hit["stage"] != NOWHERE]
    at = Counter(hit["stage"] for hit in there)
    events = [hit["events"] for hit in there if hit["events"] is not None and not hit["disturbed"]]
    limit = EVENTS_SECONDS.get(kind.split()[0])
    late = "" if limit is None or not events else str(sum(seconds > limit for seconds in events))
    cells = [kind, str(len(there)), *(str(at[stage] or "") for stage in COLUMNS)]
    return f"| {' | '.join([*cells, _spread([hit['away'] for hit in there]), _spread(events), late])} |"


def _spread(figures: Iterable[float]) -> str:
    ordered = sorted(figures)
    return f"{statistics.median(ordered):.1f} … {ordered[-1]:.1f}" if ordered else ""
