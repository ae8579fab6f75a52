"""What a worker runs on, for lineage and for the promise of exact resume. Needs no torch."""

import platform
import subprocess
from functools import cache
from pathlib import Path


@cache
def processor() -> str:
    """The kind of processor that decides how numbers round: the GPUs' product if there are any, else the CPU's model."""
    return _gpus() or _cpu()


def _cpu() -> str:
    """Name, family and model number: clouds give the same name to several generations."""
    wanted = ("model name", "cpu family", "model")
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return " / ".join(found[name] for name in wanted if name in found) or platform.machine()


def _gpus() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return ", ".join(line.strip() for line in done.stdout.splitlines() if line.strip())
