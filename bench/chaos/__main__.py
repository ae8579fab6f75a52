"""The scenario again and again, each time with three faults: nothing may be lost, doubled or stuck.

`python -m bench.chaos [--world kafka-minio] [--runs N] [--seed S]` runs the seeds S·1000 … S·1000+N-1 that are not in
results.jsonl yet, appends a line for each, and writes the table results.md. `--replay SEED…` repeats the plans of recorded
runs. A failed run keeps its state folder, with logs and objects.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from bench.chaos.results import Results, table
from deploy.servers.process import CannotStart
from servicekit.build_info import build_info
from tests.chaos.plan import KINDS, RUNS_OF_A_SEED, Plan, plan
from tests.chaos.run import Record
from tests.chaos.runner import Runner
from tests.chaos.target import can_mount

HERE = Path(__file__).parent
STATE = Path(".millstream/chaos")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.chaos", description="The scenario with three faults a run.")
    parser.add_argument("--world", choices=sorted(KINDS), default="kafka-minio")
    parser.add_argument("--runs", type=int, default=20, help="number of seeds in all, including those already recorded")
    parser.add_argument("--seed", type=int, default=1, help="run SEED·1000 and those that follow")
    parser.add_argument("--replay", type=int, nargs="+", default=[], metavar="SEED", help="repeat these recorded runs")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl", help="read, and appended to")
    parser.add_argument("--state", type=Path, default=STATE, help="folder of the state of failed runs")
    return parser.parse_args()


def plans(options: argparse.Namespace, results: Results) -> Iterator[Plan]:
    """The runs to do. The first fault of each is aimed at the pair that earlier runs hit least."""
    if options.replay:
        for seed in options.replay:
            if seed not in results.records:
                raise SystemExit(f"{results.file} has no run of seed {seed} in the world {options.world}")
            yield Plan.from_dict(results.records[seed]["plan"])
        return
    kinds = tuple(kind for kind in KINDS[options.world] if kind != "disk full" or can_mount())
    first = options.seed * RUNS_OF_A_SEED
    for seed in range(first, first + options.runs):
        if seed not in results.records:
            yield plan(seed, options.world, results.hits(), kinds)


def main() -> None:
    options = arguments()
    results = Results(options.results, options.world)
    runner = Runner(options.world, options.state.absolute())
    bad = []
    try:
        for planned in plans(options, results):
            record = runner.perform(planned)
            results.add({"world": options.world, "commit": build_info().commit[:12], **record.to_dict()})
            print(line(record), flush=True)
            if not record.good:
                bad.append(record.seed)
                again = f"python -m bench.chaos --world {options.world} --replay {record.seed}"
                print(f"  state in {runner.folder}; to repeat it: {again}", flush=True)
    except CannotStart as error:
        raise SystemExit(str(error)) from None
    finally:
        runner.end()
        options.results.with_name("results.md").write_text(table(options.results))
    print(table(options.results))
    raise SystemExit(f"{len(bad)} runs failed: {bad}" if bad else 0)


def line(record: Record) -> str:
    hits = "; ".join(
        f"{hit.kind} at {hit.stage}" + ("" if hit.events is None else f" ({hit.events:.1f} s)") for hit in record.hits
    )
    outcome = "ok" if record.good else f"FAILED {record.lost + record.doubled + record.stuck}"
    return f"seed {record.seed}: {outcome}, {record.seconds:.0f} s, closed after {record.closed:.1f} s; {hits}"


if __name__ == "__main__":
    main()
