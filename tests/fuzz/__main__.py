"""`python -m tests.fuzz --seconds N --seed S [--replay KIND/NUMBER]`: ends with `FUZZ OK {…}`, or with exit code 1."""

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.run import fuzzing


def main() -> int:
    """Run the fuzzer; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1, help="the same seed makes the same cases")
    parser.add_argument(
        "--replay", default="", metavar="KIND/NUMBER", help="only this case of the seed, such as rpc/17"
    )
    given = parser.parse_args()
    print(f"FUZZ seed {given.seed}, {given.seconds:g} s", flush=True)
    with tempfile.TemporaryDirectory() as folder, fuzzing(Path(folder), given.seed) as fuzzer:
        if given.replay:
            kind, _, number = given.replay.partition("/")
            fuzzer.case(kind, int(number))
        result = fuzzer.run(0.0 if given.replay else given.seconds)
    for found in result.findings:
        print(f"FUZZ FOUND {found}", flush=True)
    if result.findings:
        print(f"FUZZ FAILED {json.dumps({**asdict(result), 'findings': len(result.findings)})}")
        print(f"repeat a case: make fuzz SEED={given.seed} REPLAY=KIND/NUMBER", flush=True)
        return 1
    print(f"FUZZ OK {json.dumps(asdict(result))}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
