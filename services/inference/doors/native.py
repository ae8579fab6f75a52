"""InferenceService: parses its messages into rows and formats results. The use cases are in predictions.py."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict

from google.protobuf.struct_pb2 import Struct

from millstream.errors import InvalidArgument
from millstream.inference.v1.inference_service_pb2 import (
    ClassifyRequest,
    ClassifyResponse,
    EmbedRequest,
    EmbedResponse,
    ListLoadProblemsRequest,
    ListLoadProblemsResponse,
    ListServedModelsRequest,
    ListServedModelsResponse,
    LoadProblem,
    Neighbour,
    PredictRequest,
    PredictResponse,
    Ranked,
    RankRequest,
    RankResponse,
    RetryModelVersionRequest,
    RetryModelVersionResponse,
    SimilarRequest,
    SimilarResponse,
)
from millstream.inference.v1.prediction_pb2 import Classification, Embedding, Served, ServedModel, Timing
from millstream.timestamps import duration
from recipekit.predictor import Neighbour as Found
from recipekit.spec import Prediction
from servicekit.ids import check_name
from servicekit.paging import itself, message_page
from servicekit.rpc.caller import actor, deadline
from servicekit.structs import mapping_of, struct_of
from services.inference.predictions import Call, Predictions
from services.inference.predictions import Timing as Spent
from services.inference.retries import Retries
from services.inference.rows import RowsInput, check_count, columns_of, takes_other_columns
from services.inference.versions.serving import ServedVersion

NEIGHBOURS, MOST_NEIGHBOURS = 10, 1000
_Request = ClassifyRequest | EmbedRequest | PredictRequest | RankRequest | SimilarRequest


class InferenceService:
    """The platform's own protocol."""

    def __init__(self, predictions: Predictions, retries: Retries) -> None:
        self.predictions, self.retries = predictions, retries
        self.serving = predictions.serving

    async def ready(self) -> None:
        """Raise Unavailable until every model that the registry named first was tried."""
        await self.serving.ready()

    async def Classify(self, request: ClassifyRequest) -> ClassifyResponse:
        """A label for each text."""
        rows = _text_rows(request.texts, "texts", lambda i: f"texts[{i}]")
        result = await self.predictions.predict(_call(request), rows, "classify")
        found = [
            Classification(label=str(p["label"]), confidence=float(p["confidence"]), scores=p["scores"])
            for p in result.values
        ]
        return ClassifyResponse(classifications=found, served=_served(result.served), timing=_timing(result.timing))

    async def Embed(self, request: EmbedRequest) -> EmbedResponse:
        """A vector for each text."""
        rows = _text_rows(request.texts, "texts", lambda i: f"texts[{i}]")
        result = await self.predictions.predict(_call(request), rows, "embed")
        found = [Embedding(values=p["embedding"]) for p in result.values]
        return EmbedResponse(embeddings=found, served=_served(result.served), timing=_timing(result.timing))

    async def Similar(self, request: SimilarRequest) -> SimilarResponse:
        """The entries of the artifact's index that are nearest to a text."""
        limit = request.limit or NEIGHBOURS
        if not 0 < limit <= MOST_NEIGHBOURS:
            raise InvalidArgument(f"limit is {limit}: use 1 to {MOST_NEIGHBOURS}, or 0 for {NEIGHBOURS}", field="limit")
        row = _text_rows([request.text], "text", lambda _: "text")
        result = await self.predictions.similar(_call(request), row, limit, request.label or None)
        # As in Predict: rows of the index may be long, and a caller may ask for a thousand.
        found = await asyncio.to_thread(lambda: [_neighbour(n) for n in result.values])
        return SimilarResponse(neighbours=found, served=_served(result.served), timing=_timing(result.timing))

    async def Rank(self, request: RankRequest) -> RankResponse:
        """Candidates by their mean probability of a label."""
        fields = _candidate_fields(request)
        texts = [text for candidate in request.candidates for text in candidate.texts]
        ids = [candidate.id for candidate in request.candidates for _ in candidate.texts]
        rows = _text_rows(texts, "candidates", fields.__getitem__)
        result = await self.predictions.rank(_call(request), rows, ids, request.label)
        ranked = [Ranked(id=candidate, score=score) for candidate, score in result.values]
        return RankResponse(ranked=ranked, served=_served(result.served), timing=_timing(result.timing))

    async def Predict(self, request: PredictRequest) -> PredictResponse:
        """A prediction for each row, by the schemas of the recipe."""
        rows = RowsInput(
            request.rows,
            lambda row, number: mapping_of(row, f"rows[{number}]"),
            "rows",
            lambda number, column: f"rows[{number}].{column}",
            Struct.ByteSize,
        )
        result = await self.predictions.predict(_call(request), rows)
        # Embeddings as Struct are slow to build: a thread builds them, so that the event loop is not blocked.
        found = await asyncio.to_thread(lambda: [_struct(prediction) for prediction in result.values])
        return PredictResponse(predictions=found, served=_served(result.served), timing=_timing(result.timing))

    async def ListServedModels(self, request: ListServedModelsRequest) -> ListServedModelsResponse:
        """The loaded versions, by model and alias."""
        if request.model:
            check_name(request.model, "model")
        models = [
            ServedModel(
                served=_served(version.served(alias)),
                lineage=version.source.lineage,
                tasks=sorted(version.spec.tasks),
                columns=sorted(columns_of(version.spec)),
                other_columns=takes_other_columns(version.spec),
            )
            for alias, version in self.serving.all()
            if request.model in ("", version.source.model)
        ]
        shown, token = await message_page(
            models, request, lambda found: f"{found.served.model}/{found.served.alias}", itself
        )
        return ListServedModelsResponse(models=shown, next_page_token=token)

    async def ListLoadProblems(self, request: ListLoadProblemsRequest) -> ListLoadProblemsResponse:
        """The aliases that are not served by the version that they name."""
        if request.model:
            check_name(request.model, "model")
        problems = [
            LoadProblem(model=model, alias=alias, version=found.version, reason=found.reason, refused=found.refused)
            for model, alias, found in self.serving.problems()
            if request.model in ("", model)
        ]
        shown, token = await message_page(problems, request, lambda found: f"{found.model}/{found.alias}", itself)
        return ListLoadProblemsResponse(problems=shown, next_page_token=token)

    async def RetryModelVersion(self, request: RetryModelVersionRequest) -> RetryModelVersionResponse:
        """Lift a refusal, and what single replicas hold against a version."""
        lift = await self.retries.retry(request.model, request.version, request.note, actor())
        return RetryModelVersionResponse(lift=lift)


def _call(request: _Request) -> Call:
    return Call(request.model, request.alias, deadline())


def _text_rows(texts: Sequence[str], field: str, field_of: Callable[[int], str]) -> RowsInput[str]:
    """Rows of one text each; `field_of(i)` is the field that holds the i-th text."""
    return RowsInput(texts, lambda text, _: {"text": text}, field, lambda number, _column: field_of(number), len)


def _candidate_fields(request: RankRequest) -> list[str]:
    """The field that holds each text. Raises InvalidArgument for candidates that cannot be ranked."""
    check_count(len(request.candidates), "candidates")
    if not request.label:
        raise InvalidArgument("label is empty: name the label to rank by", field="label")
    ids: set[str] = set()
    fields: list[str] = []
    for i, candidate in enumerate(request.candidates):
        if not candidate.id or candidate.id in ids:
            field = f"candidates[{i}].id"
            raise InvalidArgument(f"{field} is {candidate.id!r}: give each candidate an id of its own", field=field)
        ids.add(candidate.id)
        check_count(len(candidate.texts), f"candidates[{i}].texts")
        fields += [f"candidates[{i}].texts[{j}]" for j in range(len(candidate.texts))]
    return fields


def _neighbour(found: Found) -> Neighbour:
    text = json.dumps(dict(found.row), ensure_ascii=False)
    return Neighbour(similarity=found.similarity, row=struct_of(found.row), row_json=text)


def _struct(row: Prediction) -> Struct:
    struct = Struct()
    struct.update(dict(row))
    return struct


def _served(served: ServedVersion) -> Served:
    return Served(**asdict(served))


def _timing(timing: Spent) -> Timing:
    return Timing(prepare=duration(timing.prepare), queue=duration(timing.queue), infer=duration(timing.infer))
