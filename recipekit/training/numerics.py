"""Which arithmetic a training runs in: decided by the kind of processor alone, and kept for every later attempt."""

import ctypes
import importlib.metadata
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from recipekit.backends.torch import device
from recipekit.hardware import PACKAGES, processor

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Numerics:
    """What decides a step's exact bits beside the code: later attempts of a run take the first one's."""

    dtype: Literal["fp32", "bf16"]
    threads: int
    device: str
    processor: str

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 for the operations that have it, or nothing."""
        return torch.autocast(device(), torch.bfloat16) if self.dtype == "bf16" else nullcontext()


def choose(precision: Precision, threads: int) -> dict[str, Any]:
    """The numerics of a first attempt. `threads` 0 takes as many as torch has.

    "auto" is bf16 on a GPU that has it in hardware, and fp32 elsewhere. Nothing is timed: the same seed on the same kind
    of processor is the same result, whatever else the machine does.
    """
    if threads:
        torch.set_num_threads(threads)
    dtype = precision if precision != "auto" else "bf16" if _gpu_has_bf16() else "fp32"
    return {"dtype": dtype, "threads": torch.get_num_threads(), "device": device(), "processor": processor()}


def recorded(values: Mapping[str, Any]) -> Numerics:
    """The result of choose(), read back from JSON."""
    return Numerics(values["dtype"], int(values["threads"]), values["device"], values["processor"])


def differs(first: Numerics) -> str | None:
    """Why this machine cannot give the first attempt's bits, or None if it can."""
    here = (device(), processor())
    if here == (first.device, first.processor):
        return None
    return f"began on {first.device} ({first.processor}), continues on {here[0]} ({here[1]})"


def write_environment(folder: Path, numerics: Numerics, departures: Sequence[str]) -> None:
    """environment.json: package versions, numerics, and from where on a run was no longer bit-exact."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    environment = {
        "numerics": asdict(numerics),
        "packages": {"python": platform.python_version(), **versions},
        "departures": list(departures),
    }
    (folder / "environment.json").write_text(json.dumps(environment, indent=1))


def keep_memory() -> None:
    """Make glibc keep freed memory: tensors of changing sizes else spend a third of the time in page faults."""
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
    mallopt(top_pad, 64 << 20)


def _gpu_has_bf16() -> bool:
    return device() == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
