"""How long an event takes, on SQLite and on Kafka, beside bare kafka-python: `python -m bench.events`, about 3 minutes.

Each round takes every path in turn, forwards or backwards: events published one after the other, then a burst at once. A
time ends when the next service's reconcile begins; for the bare peer, when it has parsed the message. Ratios are of figures
of the same round. The paths named `outbox` go through the outbox (marker, object, publish), on MinIO and in a folder. Then
the chain: SnapshotCreated → trained, registered, evaluated, promoted, served, in both worlds.

`RATIO events_throughput_vs_bare_kafka` is kept at 0.7 or more, `RATIO events_p50_vs_bare_kafka` at 1.5 or less, and
`RATIO chain_beyond_training_vs_budget` at 1 or less (1 is 2 s).
"""

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.events.chain import chains
from bench.events.figures import Figures, format_spread, spread, summary
from bench.events.ways import Way, pairs
from deploy.servers.kafka import Kafka
from deploy.servers.minio import Minio
from deploy.servers.process import CannotStart

ROUNDS, CHAINS = 7, 6
BURST, BURST_STORED = 5000, 300
BUDGET_SECONDS = 2.0
UNITS = {"p50_ms": "ms", "p99_ms": "ms", "call_p50_ms": "ms", "events_per_s": "events/s"}


async def rounds(kafka: Kafka, minio: Minio, folder: Path, count: int) -> Mapping[str, Sequence[Figures]]:
    """The figures of each path, by round. One more round, the first, warms all processes up and is not counted."""
    worlds = {
        "kafka": {**kafka.settings(), **minio.settings("events")},
        "sqlite": {"bus": f"sqlite:{folder / 'bus.sqlite'}", "blobs": f"directory:{folder / 'blobs'}"},
    }
    async with pairs(kafka.address, worlds) as made:
        ways = [Way(name, pair, "bus", BURST) for name, pair in made.items()]
        ways += [Way(f"{name}_outbox", made[name], "outbox", BURST_STORED) for name in worlds]
        found: dict[str, list[Figures]] = {way.name: [] for way in ways}
        for number in range(count + 1):
            for way in ways if number % 2 else reversed(ways):
                found[way.name].append(await way.measure(number))
    return {name: figures[1:] for name, figures in found.items()}


def measure(kafka: Kafka, minio: Minio, folder: Path, count: int, files: int) -> dict[str, Any]:
    ways = asyncio.run(rounds(kafka, minio, folder, count))
    ours, bare = ways["kafka"], ways["bare"]
    prefixed = {**kafka.settings(), "kafka_prefix": "chain.", **minio.settings("chain")}
    worlds = {"kafka_minio": prefixed, "local": {}}
    chain = {name: summary(chains(folder / name, settings, files)) for name, settings in worlds.items()}
    return {
        "ways": {name: summary(figures) for name, figures in ways.items()},
        "outbox_costs_ms": {
            name: spread(
                [by["p50_ms"] - direct["p50_ms"] for by, direct in zip(ways[f"{name}_outbox"], ways[name], strict=True)]
            )
            for name in ("kafka", "sqlite")
        },
        "chain": chain,
        "ratios": {
            "events_throughput_vs_bare_kafka": against(ours, bare, "events_per_s"),
            "events_p50_vs_bare_kafka": against(ours, bare, "p50_ms"),
            "chain_beyond_training_vs_budget": {
                name: value / BUDGET_SECONDS for name, value in chain["kafka_minio"]["beyond_training"].items()
            },
        },
    }


def against(ours: Sequence[Figures], bare: Sequence[Figures], figure: str) -> dict[str, float]:
    """The ratio of our figure to the peer's of the same round."""
    return spread([mine[figure] / theirs[figure] for mine, theirs in zip(ours, bare, strict=True)])


def print_results(results: Mapping[str, Any]) -> None:
    for name, figures in results["ways"].items():
        for figure, unit in UNITS.items():
            print(f"{name:14} {figure.removesuffix('_ms'):12} {format_spread(figures[figure], unit)}")
    for name, costs in results["outbox_costs_ms"].items():
        print(f"{name:14} {'outbox costs':12} {format_spread(costs, 'ms')} more than publishing at once")
    for name, moments in results["chain"].items():
        for moment, seconds in moments.items():
            print(f"{name:14} {moment:22} {format_spread(seconds, 's')}")
    for name, ratio in results["ratios"].items():
        print(f"RATIO {name} {ratio['median']:.3f} ({ratio['least']:.3f} to {ratio['most']:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.events")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--files", type=int, default=CHAINS, help="how many go through each platform")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        kafka, minio = Kafka(folder / "kafka"), Minio(folder / "minio")
        try:
            for server in (kafka, minio):
                server.start()
            results = measure(kafka, minio, folder, options.rounds, options.files)
        except CannotStart as error:
            raise SystemExit(str(error)) from None
        finally:
            for server in (kafka, minio):
                server.kill()
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print_results(results)
    options.out.write_text(json.dumps({"load_per_core": load, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
