"""Two models whose predictions are known, served by one engine each, without a registry, a store or torch."""

import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, Field

from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.predictor import Item, Neighbour
from recipekit.spec import Config, Measured, Metric, Prediction, Row, Spec, Task
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.work.queue import Work
from services.inference.doors.native import InferenceService
from services.inference.engine.batcher import Batcher
from services.inference.engine.queue import Limits
from services.inference.predictions import Predictions
from services.inference.retries import Retries
from services.inference.store import Store
from services.inference.versions.serving import LoadedVersion, Serving
from tests.worlds.waiting import HANG

BIG = 2**53 + 1
"""A whole number that no double holds."""


class Input(BaseModel):
    text: str = Field(min_length=1)
    weight: int = 1


class Answer(BaseModel):
    label: str
    confidence: float
    scores: dict[str, float]
    embedding: list[float]


def spec(*tasks: Task) -> Spec:
    return Spec(
        name="joy",
        description="counts letters",
        config=Config,
        presets={"default": {}},
        row=Input,
        input=Input,
        prediction=Answer,
        tasks=dict.fromkeys(tasks, ()),
        identity=("text",),
        metrics=(Metric("accuracy", "share found"),),
        gate=(),
        measure=lambda rows, predictions: Measured({}),
        baseline=lambda train, test: [],
        baseline_name="none",
    )


class Joy:
    """Joyful to the share of the letter j."""

    backend = "fake"
    precision = "exact"
    has_index = True

    def __init__(self) -> None:
        self.searching, self.may_search = threading.Event(), threading.Event()
        self.may_search.set()
        self.preparing, self.may_prepare = threading.Event(), threading.Event()
        self.may_prepare.set()
        self.prepared: list[int] = []
        """Rows of each slice, shared by the models of a test."""

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        self.prepared.append(len(rows))
        self.preparing.set()
        self.may_prepare.wait(HANG)
        return [Item(1, row) for row in rows]

    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        return [self.one(item.payload) for item in items]

    def one(self, row: Row) -> Prediction:
        text = str(row["text"])
        joy = text.count("j") / len(text)
        scores = {"joy": joy, "gloom": 1 - joy}
        label = max(scores, key=scores.__getitem__)
        return {
            "label": label,
            "confidence": scores[label],
            "scores": scores,
            "embedding": [joy, float(row["weight"])],
        }

    def similar(self, prediction: Prediction, limit: int, label: str | None) -> list[Neighbour]:
        if not self.has_index:
            raise LookupError("this artifact has no index")
        self.searching.set()
        self.may_search.wait(HANG)
        near, far = {"text": "near", "label": "joy", "id": BIG}, {"text": "far", "label": "gloom"}
        kept = [Neighbour(0.9, near), Neighbour(0.5, far)]
        return [n for n in kept if label in (None, n.row["label"])][:limit]


@asynccontextmanager
async def serving_joy() -> AsyncIterator[Serving]:
    """The models joy and plain, version 4; one thread prepares for both."""
    made = Serving()
    with ThreadPoolExecutor(1) as pool:
        for name, tasks in (("joy", ("classify", "embed", "similar", "rank")), ("plain", ("classify",))):
            predictor = Joy()
            batcher = Batcher(name, predictor, Limits(queue_requests=2), pool)
            source = ModelVersion(model=name, version=4)
            version = LoadedVersion(source, spec(*tasks), predictor, batcher, ("joy", "gloom"))  # type: ignore[arg-type]
            made.put(name, "champion", version)
        yield made
        await made.close()


def service_of(serving: Serving) -> InferenceService:
    """The door to these models, on a store of its own."""
    blobs = MemoryBlobs()
    work = Work(blobs, MemoryBus(), "inference", {}, resync_seconds=1000)
    registry: Any = None  # nothing is retried here
    return InferenceService(Predictions(serving), Retries(registry, Store(blobs, 600), serving, work))
