"""All random generators in one place: seeded, saved and restored together."""

import json
import os
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def seed_everything(seed: int) -> None:
    """Seed python, numpy and torch (every device), and use deterministic kernels on a GPU.

    An operation without a deterministic kernel only warns. See https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
        torch.use_deterministic_algorithms(True, warn_only=True)


def random_state() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The state of all global generators, as JSON and as tensors (a safetensors file holds no python objects)."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    values = {"python": random.getstate(), "numpy": [kind, keys.tolist(), position, has_gauss, cached]}  # type: ignore[union-attr]
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return dict(json.loads(json.dumps(values))), tensors


def restore_random_state(values: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Restore what random_state() returned."""
    version, keys, gauss = values["python"]
    random.setstate((version, tuple(keys), gauss))
    kind, words, position, has_gauss, cached = values["numpy"]
    np.random.set_state((kind, np.array(words, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
