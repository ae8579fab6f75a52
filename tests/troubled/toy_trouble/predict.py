"""Loads the toy model, and does on the way what `trouble.json` asks for.

`trouble` is a key of TROUBLES. `hint`: a file that is written with the process's id before. `only_while`: a file without
which nothing happens.
"""

import errno
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recipekit.spec import Prediction
from tests.recipes.toy_words.predict import WordsPredictor
from tests.recipes.toy_words.predict import load as load_words


class Forgetful(WordsPredictor):
    """Its predictions make measure() forget a metric."""

    def forward(self, items: Sequence[Any]) -> list[Prediction]:
        return [{**prediction, "forget": True} for prediction in super().forward(items)]


def hang() -> None:
    """For ever, in C, so that no other thread of the process runs."""
    re.match(r"(a+)+$", "a" * 1000 + "b")


def out_of_memory() -> None:
    raise MemoryError("no memory for 8 GiB")


def out_of_disk() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def device_lost() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def bug() -> None:
    raise KeyError("labels")


def prints() -> None:
    print("noise " * 100_000)
    sys.stdout.flush()


TROUBLES: dict[str, Callable[[], Any]] = {
    "hang": hang,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": out_of_memory,
    "disk": out_of_disk,
    "device": device_lost,
    "bug": bug,
    "prints": prints,
    "forgets": lambda: None,
}


def load(folder: Path) -> WordsPredictor:
    """The predictor of an artifact folder, unless the trouble comes first."""
    asked = json.loads((folder / "trouble.json").read_text())
    if asked["hint"]:
        Path(asked["hint"]).write_text(str(os.getpid()))
    if not asked["only_while"] or Path(asked["only_while"]).exists():
        TROUBLES[asked["trouble"]]()
    words = load_words(folder)
    return Forgetful(words.model) if asked["trouble"] == "forgets" else words
