"""The most memory of some processes, until stdin ends: `python -m bench.neighbours.memory '{"NAME": [PID]}'`."""

import json
import select
import sys
from pathlib import Path

LOOK_SECONDS = 0.2


def resident(pid: int) -> int:
    """Bytes in memory; 0 for a process that is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("VmRSS:")), 0)


def main() -> None:
    named = json.loads(sys.argv[1])
    most = dict.fromkeys(named, 0)
    while True:
        for name, pids in named.items():
            most[name] = max(most[name], sum(resident(pid) for pid in pids))
        if select.select([sys.stdin], [], [], LOOK_SECONDS)[0]:
            break
    print(json.dumps(most))


if __name__ == "__main__":
    main()
