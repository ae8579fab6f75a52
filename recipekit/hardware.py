"""What a worker runs on and with, for lineage and for the promise of exact resume. Needs no torch."""

import os
import platform
import subprocess
from functools import cache
from itertools import takewhile
from pathlib import Path

PACKAGES = ("torch", "numpy", "safetensors", "scikit-learn", "tokenizers", "pydantic")
"""The packages that a training's bits rest on."""
CPU_KEYS = ("model name", "cpu family", "model", "CPU implementer", "CPU part")
"""Name, family and model number, because clouds give the same name to several generations; the last two: Arm."""


@cache
def processor() -> str:
    """The kind of processor that decides how numbers round: the visible GPUs' products if there are any, else the CPU."""
    return visible_gpus(_gpu_listing(), os.environ.get("CUDA_VISIBLE_DEVICES")) or cpu_model(_cpu_listing())


def cpu_model(listing: str) -> str:
    """The first CPU of a /proc/cpuinfo, or the machine's architecture where it names none."""
    lines = (line.partition(":") for line in listing.split("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    return " / ".join(found[key] for key in CPU_KEYS if key in found) or platform.processor() or platform.machine()


def visible_gpus(listing: str, visible: str | None) -> str:
    """The distinct products among lines of `index, uuid, name`, that CUDA_VISIBLE_DEVICES (None: not set) lets CUDA see."""
    gpus = _rows(listing)
    if visible is not None:
        wanted = _named(visible)
        # A MIG slice has an id of its own, which the listing of whole GPUs lacks.
        if not any(device.startswith("MIG-") for device in wanted):
            uuids = tuple(device for device in wanted if device.startswith("GPU-"))
            gpus = [gpu for gpu in gpus if gpu[0] in wanted or gpu[1].startswith(uuids)]
    return ", ".join(dict.fromkeys(name.strip() for _, _, name in gpus))


def gpus(visible: str | None = None) -> dict[str, str]:
    """The product of each GPU that is named, by its uuid; None: of those that this process may see. Blocks."""
    return gpus_of(_gpu_listing(), os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible)


def gpus_of(listing: str, visible: str | None) -> dict[str, str]:
    """The GPUs among lines of `index, uuid, name` that CUDA_VISIBLE_DEVICES (None: not set) names, by their uuids.

    A MIG slice has an id of its own, which the listing of whole GPUs lacks, and no product.
    """
    rows = _rows(listing)
    if visible is None or not rows:
        return {uuid: name.strip() for _, uuid, name in rows}
    found = {}
    for one in _named(visible):
        named = {uuid: name.strip() for index, uuid, name in rows if one == index or uuid.startswith(one)}
        found.update(dict(list(named.items())[:1]) or ({one: ""} if one.startswith("MIG-") else {}))
    return found


def _rows(listing: str) -> list[list[str]]:
    return [line.split(", ", 2) for line in listing.splitlines() if line.count(", ") >= 2]


def _named(visible: str) -> list[str]:
    """CUDA sees the devices before the first -1."""
    return list(takewhile(lambda one: one not in ("", "-1"), (one.strip() for one in visible.split(","))))


def _cpu_listing() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _gpu_listing() -> str:
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
