"""How much longer a well-behaved call takes beside each attacker: `python -m bench.neighbours [--world W] [--seconds N]`.

16 callers on each service, a call a second each, first in quiet, then beside one attacker after the other. Kept: no call
fails; none takes more than 1 s longer than the longest in quiet (`RATIO neighbours_longest_beyond_quiet`, 1 is 1 s); health
answers within 1 s (`RATIO neighbours_health_longest`, 1 is 1 s); no service grows by more than 200 MB, and it comes back.
"""

import argparse
import json
import tempfile
from pathlib import Path

from bench.neighbours.harness import Felt, phases
from tests.worlds.platform import WORLDS


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.neighbours")
    parser.add_argument("--world", choices=WORLDS, default="local")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each attack")
    options = parser.parse_args()
    felt: list[Felt] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in phases(Path(folder), options.world, options.seconds):
            felt.append(one)
            print(line(one, felt[0]), flush=True)
    problems = [problem for one in felt for problem in one.problems()]
    longest = max(beyond(one, felt[0]) for one in felt[1:])
    health = max(figures["health_longest"] for one in felt for figures in one.figures["services"].values())
    print(f"RATIO neighbours_longest_beyond_quiet {longest:.3f}")
    print(f"RATIO neighbours_health_longest {health:.3f}")
    results = {"world": options.world, "phases": [one.to_dict() for one in felt], "problems": problems}
    (Path(__file__).parent / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    raise SystemExit("\n".join(problems) if problems else 0)


def beyond(one: Felt, quiet: Felt) -> float:
    """Seconds by which the longest call of a phase exceeds the longest in quiet, of the service where that is most."""
    base = quiet.figures["services"]
    return max(found["longest"] - base[name]["longest"] for name, found in one.figures["services"].items())


def line(one: Felt, quiet: Felt) -> str:
    """One phase for people."""
    services = one.figures["services"]
    slowest = max(services, key=lambda name: services[name]["longest"])
    health = max(found["health_longest"] for found in services.values())
    grown = max(one.most, key=lambda name: one.most[name] - one.before[name])
    return (
        f"{one.name:<30} longest {services[slowest]['longest']:.2f} s ({slowest}), {beyond(one, quiet):+.2f} s; "
        f"health {health:.2f} s; {grown} {(one.most[grown] - one.before[grown]) >> 20:+d} MB; "
        f"{len(one.figures['failed'])} failed"
    )


if __name__ == "__main__":
    main()
