"""From rows to predictions: find the version, check the rows, run them through its engine. Every door calls this."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition, InvalidArgument
from recipekit.predictor import Item, Neighbour
from recipekit.spec import Prediction, Task
from servicekit.ids import check_name
from services.inference import metrics
from services.inference.engine.batcher import Admitted, Timing
from services.inference.rows import RowsInput, check_count, checked_rows
from services.inference.versions.serving import LoadedVersion, ServedVersion, Serving

if TYPE_CHECKING:
    from recipekit.predictor import Searcher

__all__ = ["Call", "Predictions", "Result", "Timing"]
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """Which version a caller asks for, and until when it waits."""

    model: str
    alias: str = ""
    """Empty: champion."""
    deadline: float | None = None
    """On the monotonic clock; None: never."""


@dataclass(frozen=True)
class Result(Generic[T]):
    """What one call found, where its time went, and the version that served it."""

    values: list[T]
    timing: Timing
    served: ServedVersion


class Predictions:
    """The use cases of inference, in plain values: doors translate their protocols to and from them.

    Each raises NotFound, Unavailable or FailedPrecondition when no version can answer, InvalidArgument when the rows are
    refused, Overloaded or DeadlineExceeded when they cannot be answered in time, Internal when the model fails on them.
    """

    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    async def predict(self, call: Call, rows: RowsInput[Any], task: Task | None = None) -> Result[Prediction]:
        """One prediction per row, in the order of the rows. `task` None: any recipe serves it."""
        check_count(len(rows.inputs), rows.field)
        version = self._find(call, task)
        async with version.batcher.admit(call.deadline, sum(rows.sizes)) as admitted:
            predictions = await _predict(version, admitted, rows)
        return _result(predictions, admitted, version, call)

    async def similar(self, call: Call, row: RowsInput[Any], limit: int, label: str | None = None) -> Result[Neighbour]:
        """Up to `limit` entries of the artifact's index nearest to the one row, of one label if one is given.

        Raises FailedPrecondition when the artifact has no index.
        """
        version = self._find(call, "similar")
        if label:
            _check_label(version, label)
        searcher = cast("Searcher", version.predictor)
        async with version.batcher.admit(call.deadline, sum(row.sizes)) as admitted:
            prediction = (await _predict(version, admitted, row))[0]
            try:
                found = await admitted.infer(lambda: searcher.similar(prediction, limit, label))
            except LookupError as error:
                raise FailedPrecondition(f"model {call.model} cannot answer Similar: {error}") from error
        return _result(found, admitted, version, call)

    async def rank(
        self, call: Call, rows: RowsInput[Any], candidates: Sequence[str], label: str
    ) -> Result[tuple[str, float]]:
        """(candidate, mean probability of the label over its rows), best first; `candidates[i]` is row i's candidate."""
        check_count(len(rows.inputs), rows.field)
        version = self._find(call, "rank")
        _check_label(version, label)
        async with version.batcher.admit(call.deadline, sum(rows.sizes)) as admitted:
            predictions = await _predict(version, admitted, rows)
        scores: dict[str, list[float]] = {}
        for candidate, prediction in zip(candidates, predictions, strict=True):
            scores.setdefault(candidate, []).append(float(prediction["scores"].get(label, 0.0)))
        means = [(candidate, sum(own) / len(own)) for candidate, own in scores.items()]
        return _result(sorted(means, key=lambda mean: -mean[1]), admitted, version, call)

    def _find(self, call: Call, task: Task | None) -> LoadedVersion:
        if not call.model:
            raise InvalidArgument("model is empty: name the model to call", field="model")
        version = self.serving.find(check_name(call.model, "model"), call.alias or CHAMPION)
        if task and task not in version.spec.tasks:
            serves = ", ".join(sorted(version.spec.tasks)) or "no task of its own"
            raise FailedPrecondition(
                f"model {call.model} does not serve {task}: its recipe {version.spec.name} serves {serves}; "
                "Predict serves every recipe",
                model=call.model,
            )
        metrics.REQUESTS.labels(call.model, task or "predict").inc()
        return version


async def _predict(version: LoadedVersion, admitted: Admitted, rows: RowsInput[Any]) -> list[Prediction]:
    items: list[Item] = []
    # Each slice waits for a thread anew: rows of other requests go between, and none is begun after the deadline.
    for numbers in rows.slices():
        items += await admitted.prepare(partial(_prepare, version, rows, numbers))
    return await admitted.predict(items)


def _prepare(version: LoadedVersion, rows: RowsInput[Any], numbers: range) -> list[Item]:
    checked = checked_rows(version.spec, rows, numbers, version.batcher.limits.longest_text, version.clean)
    return version.predictor.prepare(checked)


def _result(values: list[T], admitted: Admitted, version: LoadedVersion, call: Call) -> Result[T]:
    return Result(values, admitted.timing, version.served(call.alias or CHAMPION))


def _check_label(version: LoadedVersion, label: str) -> None:
    if label not in version.labels:
        raise InvalidArgument(
            f"label {label!r} is not one of model {version.source.model}: use {', '.join(version.labels) or 'none'}",
            field="label",
        )
