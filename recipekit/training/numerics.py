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

from recipekit.backends.torch import device
from recipekit.hardware import processor
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
        """bf16 for the operations that have it, or nothing."""
        return torch.autocast(device(), torch.bfloat16) if self.dtype == "bf16" else nullcontext()


def choose(
    precision: Precision, threads: int, model: nn.Module, step: Callable[[AbstractContextManager[Any]], None]
) -> dict[str, Any]:
    """The numerics of a first attempt. `step(autocast)` runs forward and backward on real batches.

    `threads` 0 takes as many as torch has; small models are faster, and steadier beside other work, with one.
    """
    if threads:
        torch.set_num_threads(threads)
    measured: dict[str, Any] = {}
    dtype = precision
    if precision == "auto":
        seconds = _measure(model, step, device())
        measured["seconds"] = seconds
        dtype = "bf16" if seconds.get("bf16", float("inf")) * GAIN < seconds["fp32"] else "fp32"
    numerics = {"dtype": dtype, "threads": torch.get_num_threads(), "device": device(), "processor": processor()}
    return {**numerics, **measured}


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


def _measure(
    model: nn.Module, step: Callable[[AbstractContextManager[Any]], None], where: str, rounds: int = 3
) -> dict[str, float]:
    """Best seconds of a step in each precision; weights, buffers, gradients and generators stay as they were."""
    kept = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    seconds: dict[str, float] = {}
    with undisturbed():
        for dtype in ("fp32", "bf16"):
            numerics = Numerics(dtype, 0, where, "")
            try:
                seconds[dtype] = min(_timed(lambda n=numerics: step(n.autocast()), where) for _ in range(rounds))  # type: ignore[misc]
            except RuntimeError:  # an operation that has no bf16 kernel here
                if dtype == "fp32":
                    raise
    model.load_state_dict(kept)
    _forget_gradients(model.parameters())
    return seconds


def _timed(work: Callable[[], None], where: str) -> float:
    started = time.perf_counter()
    work()
    if where == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _forget_gradients(parameters: Iterable[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None
