"""Which arithmetic a training runs in: measured where it runs, once, and kept for every later attempt."""

import ctypes
import importlib.metadata
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from recipekit.training.seeding import undisturbed

Precision = Literal["auto", "fp32", "bf16"]
GAIN = 1.1
"""bf16 must be this much faster than fp32 to be worth its eight bits of mantissa."""
PACKAGES = ("torch", "numpy", "safetensors", "scikit-learn", "tokenizers", "pydantic")


@dataclass(frozen=True)
class Numerics:
    """What decides a step's exact bits beside the code: later attempts of a run take the first one's."""

    dtype: Literal["fp32", "bf16"]
    threads: int
    device: str
    processor: str

    def autocast(self) -> AbstractContextManager[Any]:
        """bf16 for the operations that bear it, or nothing."""
        return torch.autocast(device(), torch.bfloat16) if self.dtype == "bf16" else nullcontext()


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def processor() -> str:
    """The kind of processor that computes: the same name, the same bits."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            told = dict(line.strip().split("\t: ", 1) for line in lines if "\t: " in line)
        return f"{told['model name']} family {told['cpu family']} model {told['model']}"
    except (OSError, KeyError):
        return f"{platform.machine()} {platform.processor()}"


def choose(
    precision: Precision, threads: int, model: nn.Module, step: Callable[[AbstractContextManager[Any]], None]
) -> dict[str, Any]:
    """The numerics of a first attempt. `step(autocast)` runs forward and backward on real batches.

    `threads` 0 takes as many as torch has; small models are faster, and steadier beside other work, with one.
    """
    there, name = device(), processor()
    if threads:
        torch.set_num_threads(threads)
    told: dict[str, Any] = {}
    dtype = precision
    if precision == "auto":
        seconds = _measure(model, step, there)
        told["seconds"] = seconds
        dtype = "bf16" if seconds.get("bf16", float("inf")) * GAIN < seconds["fp32"] else "fp32"
    return {"dtype": dtype, "threads": torch.get_num_threads(), "device": there, "processor": name, **told}


def recorded(told: Mapping[str, Any]) -> Numerics:
    """What choose() told, also after a trip through JSON."""
    return Numerics(told["dtype"], int(told["threads"]), told["device"], told["processor"])


def differs(told: Numerics) -> str | None:
    """Why this machine cannot give the first attempt's bits, or None if it can."""
    now = (device(), processor())
    if now == (told.device, told.processor):
        return None
    return f"began on {told.device} ({told.processor}), goes on with {now[0]} ({now[1]})"


def write_environment(folder: Path, numerics: Numerics, departures: Sequence[str]) -> None:
    """environment.json: package versions, numerics, and from where on a run was no longer bit-exact."""
    installed = {d.metadata["Name"].lower() for d in importlib.metadata.distributions() if d.metadata["Name"]}
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if name in installed}
    told = {
        "numerics": asdict(numerics),
        "packages": {"python": platform.python_version(), **versions},
        "departures": list(departures),
    }
    (folder / "environment.json").write_text(json.dumps(told, indent=1))


def keep_memory() -> None:
    """Tell glibc to keep freed memory: tensors of changing sizes else spend a third of the time in page faults."""
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


def _measure(
    model: nn.Module, step: Callable[[AbstractContextManager[Any]], None], there: str, rounds: int = 3
) -> dict[str, float]:
    """Best seconds of a step in each precision; weights, buffers, gradients and generators stay as they were."""
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    seconds: dict[str, float] = {}
    with undisturbed():
        for dtype in ("fp32", "bf16"):
            numerics = Numerics(dtype, 0, there, "")
            try:
                seconds[dtype] = min(_timed(lambda n=numerics: step(n.autocast()), there) for _ in range(rounds))  # type: ignore[misc]
            except RuntimeError:  # an operation that has no bf16 kernel here
                if dtype == "fp32":
                    raise
    model.load_state_dict(kept)
    _forget_gradients(model.parameters())
    return seconds


def _timed(work: Callable[[], None], there: str) -> float:
    started = time.perf_counter()
    work()
    if there == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
