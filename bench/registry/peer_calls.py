"""MLflow's callers, run by its own environment: `python peer_calls.py '{"address": …}'` prints calls per second as JSON.

As in calls.py: each caller, a thread here, has a client and a model of its own and sends one call after the other.
"""

import importlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

ALIAS = "champion"
PACKAGES = {f"package-{number}": "1.2.3" for number in range(10)}
"""The tags of a version: as much as the lineage of ours."""


class Caller:
    """One user with a client and a registered model."""

    def __init__(self, address: str, model: str) -> None:
        self.client: Any = importlib.import_module("mlflow").MlflowClient(address, address)
        self.model = model

    def begin(self) -> None:
        """Declare the model and a run; two versions, and the champion."""
        self.run_id = self.client.create_run("0").info.run_id
        self.client.create_registered_model(self.model)
        for number in (1, 2):
            self.register(number)
        self.move(1)

    def register(self, _: int) -> None:
        """A version of the run, as register_model() makes it; its answer is the version."""
        source = f"s3://bucket/{self.run_id}/model"
        self.client.create_model_version(self.model, source, run_id=self.run_id, tags=PACKAGES, await_creation_for=0)

    def move(self, number: int) -> None:
        """The champion becomes the other version."""
        self.client.set_registered_model_alias(self.model, ALIAS, str(1 + number % 2))

    def by_number(self, _: int) -> None:
        """Look a version up."""
        self.client.get_model_version(self.model, "1")

    def by_alias(self, _: int) -> None:
        """Look the champion up."""
        self.client.get_model_version_by_alias(self.model, ALIAS)

    @property
    def kinds(self) -> Mapping[str, Callable[[int], None]]:
        """What is measured."""
        return {"register": self.register, "alias": self.move, "get_version": self.by_number, "by_alias": self.by_alias}


def _until(end: float, kind: str, caller: Caller) -> int:
    done = 0
    while time.perf_counter() < end:
        caller.kinds[kind](done)
        done += 1
    return done


def measure(asked: Mapping[str, Any]) -> dict[str, float]:
    """Calls per second by kind, of all callers together."""
    callers = [Caller(asked["address"], f"{asked['name']}-{number}") for number in range(asked["callers"])]
    figures = {}
    with ThreadPoolExecutor(len(callers)) as threads:
        list(threads.map(Caller.begin, callers))
        for kind in callers[0].kinds:
            began = time.perf_counter()
            done = sum(threads.map(partial(_until, began + asked["seconds"], kind), callers))
            figures[kind] = done / (time.perf_counter() - began)
    return figures


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
