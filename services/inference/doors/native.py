"""InferenceService: message in, message out. What answers is in serving.py, how it is batched in batcher.py."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, cast

from google.protobuf.struct_pb2 import Struct

from millstream.defaults import CHAMPION
from millstream.errors import FailedPrecondition, InvalidArgument
from millstream.inference.v1.inference_service_pb2 import (
    ClassifyRequest,
    ClassifyResponse,
    EmbedRequest,
    EmbedResponse,
    ListServedModelsRequest,
    ListServedModelsResponse,
    Neighbour,
    PredictRequest,
    PredictResponse,
    Ranked,
    RankRequest,
    RankResponse,
    SimilarRequest,
    SimilarResponse,
)
from millstream.inference.v1.prediction_pb2 import Classification, Embedding, Served, Timing
from millstream.timestamps import duration
from recipekit.spec import Prediction, Row
from servicekit.ids import check_name
from servicekit.paging import page
from servicekit.rpc.interceptor import deadline
from services.inference import metrics
from services.inference.doors.rows import check_count, struct_rows, text_rows
from services.inference.engine.batcher import Answer
from services.inference.versions.serving import LoadedVersion, Serving

if TYPE_CHECKING:
    from recipekit.predictor import Searcher

NEIGHBOURS, MOST_NEIGHBOURS = 10, 1000


class _Asked(NamedTuple):
    version: LoadedVersion
    served: Served


class InferenceService:
    def __init__(self, serving: Serving) -> None:
        self.serving = serving

    async def ready(self) -> None:
        """Raise Unavailable until every model that the registry named first was loaded or refused."""
        await self.serving.ready()

    async def Classify(self, request: ClassifyRequest) -> ClassifyResponse:
        check_count(len(request.texts), "texts")
        asked = self._asked(request.model, request.alias, "classify")
        answer = await _answer_texts(asked.version, request.texts, lambda i: f"texts[{i}]")
        found = [
            Classification(label=str(p["label"]), confidence=float(p["confidence"]), scores=p["scores"])
            for p in answer.predictions
        ]
        return ClassifyResponse(classifications=found, served=asked.served, timing=_timing(answer))

    async def Embed(self, request: EmbedRequest) -> EmbedResponse:
        check_count(len(request.texts), "texts")
        asked = self._asked(request.model, request.alias, "embed")
        answer = await _answer_texts(asked.version, request.texts, lambda i: f"texts[{i}]")
        found = [Embedding(values=p["embedding"]) for p in answer.predictions]
        return EmbedResponse(embeddings=found, served=asked.served, timing=_timing(answer))

    async def Similar(self, request: SimilarRequest) -> SimilarResponse:
        limit = request.limit or NEIGHBOURS
        if not 0 < limit <= MOST_NEIGHBOURS:
            raise InvalidArgument(f"limit is {limit}: use 1 to {MOST_NEIGHBOURS}, or 0 for {NEIGHBOURS}", field="limit")
        asked = self._asked(request.model, request.alias, "similar")
        if request.label:
            _check_label(asked.version, request.label)
        answer = await _answer_texts(asked.version, [request.text], lambda _: "text")
        searcher = cast("Searcher", asked.version.predictor)
        started = time.perf_counter()
        try:
            near = await asyncio.to_thread(searcher.similar, answer.predictions[0], limit, request.label or None)
        except LookupError as error:
            raise FailedPrecondition(f"model {request.model} cannot answer Similar: {error}") from error
        answer = replace(answer, infer=answer.infer + time.perf_counter() - started)
        found = [Neighbour(similarity=n.similarity, row=_struct(n.row)) for n in near]
        return SimilarResponse(neighbours=found, served=asked.served, timing=_timing(answer))

    async def Rank(self, request: RankRequest) -> RankResponse:
        names = _candidate_names(request)
        asked = self._asked(request.model, request.alias, "rank")
        _check_label(asked.version, request.label)
        texts = [text for candidate in request.candidates for text in candidate.texts]
        answer = await _answer_texts(asked.version, texts, names.__getitem__)
        ranked, start = [], 0
        for candidate in request.candidates:
            mine = answer.predictions[start : start + len(candidate.texts)]
            start += len(mine)
            score = sum(float(p["scores"].get(request.label, 0.0)) for p in mine) / len(mine)
            ranked.append(Ranked(id=candidate.id, score=score))
        ranked.sort(key=lambda candidate: -candidate.score)
        return RankResponse(ranked=ranked, served=asked.served, timing=_timing(answer))

    async def Predict(self, request: PredictRequest) -> PredictResponse:
        check_count(len(request.rows), "rows")
        asked = self._asked(request.model, request.alias, "")
        spec, rows = asked.version.spec, request.rows
        answer = await asked.version.answer(lambda: struct_rows(spec, rows), deadline())
        # Embeddings as Struct are slow to build: the loop goes on meanwhile.
        found = await asyncio.to_thread(lambda: [_struct(prediction) for prediction in answer.predictions])
        return PredictResponse(predictions=found, served=asked.served, timing=_timing(answer))

    async def ListServedModels(self, request: ListServedModelsRequest) -> ListServedModelsResponse:
        if request.model:
            check_name(request.model, "model")
        models = [found for found in self.serving.all() if request.model in ("", found.served.model)]
        shown, token = page(
            models, request.page_size, request.page_token, lambda found: f"{found.served.model}/{found.served.alias}"
        )
        return ListServedModelsResponse(models=shown, next_page_token=token)

    def _asked(self, model: str, alias: str, task: str) -> _Asked:
        """The version that answers this request. `task` "": any recipe will do."""
        if not model:
            raise InvalidArgument("model is empty: name the model that shall answer", field="model")
        alias = alias or CHAMPION
        version = self.serving.find(check_name(model, "model"), alias)
        if task and task not in version.spec.tasks:
            serves = ", ".join(sorted(version.spec.tasks)) or "no task of its own"
            raise FailedPrecondition(
                f"model {model} does not serve {task}: its recipe {version.spec.name} serves {serves}; "
                "Predict serves every recipe",
                model=model,
            )
        metrics.REQUESTS.labels(model, task or "predict").inc()
        return _Asked(version, version.served(alias))


async def _answer_texts(version: LoadedVersion, texts: Sequence[str], names: Callable[[int], str]) -> Answer:
    return await version.answer(lambda: text_rows(version.spec, texts, names), deadline())


def _candidate_names(request: RankRequest) -> list[str]:
    """How each text is named to its caller. Raises InvalidArgument for candidates that cannot be ranked."""
    check_count(len(request.candidates), "candidates")
    if not request.label:
        raise InvalidArgument("label is empty: name the label to rank by", field="label")
    ids: set[str] = set()
    names: list[str] = []
    for i, candidate in enumerate(request.candidates):
        if not candidate.id or candidate.id in ids:
            field = f"candidates[{i}].id"
            raise InvalidArgument(f"{field} is {candidate.id!r}: give each candidate an id of its own", field=field)
        ids.add(candidate.id)
        check_count(len(candidate.texts), f"candidates[{i}].texts")
        names += [f"candidates[{i}].texts[{j}]" for j in range(len(candidate.texts))]
    check_count(len(names), "candidates")
    return names


def _check_label(version: LoadedVersion, label: str) -> None:
    if label not in version.labels:
        raise InvalidArgument(
            f"label {label!r} is not one of model {version.source.model}: use {', '.join(version.labels) or 'none'}",
            field="label",
        )


def _struct(row: Row | Prediction) -> Struct:
    struct = Struct()
    struct.update(dict(row))
    return struct


def _timing(answer: Answer) -> Timing:
    timing = Timing()
    timing.prepare.CopyFrom(duration(answer.prepare))
    timing.queue.CopyFrom(duration(answer.queue))
    timing.infer.CopyFrom(duration(answer.infer))
    return timing
