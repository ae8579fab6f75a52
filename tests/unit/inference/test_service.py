"""Every RPC against a model whose predictions are known."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from millstream.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Overloaded
from millstream.inference.v1.inference_service_pb2 import (
    Candidate,
    ClassifyRequest,
    EmbedRequest,
    ListServedModelsRequest,
    PredictRequest,
    RankRequest,
    SimilarRequest,
)
from servicekit.rpc.caller import DEADLINE
from services.inference.doors.native import InferenceService
from services.inference.predictions import Call
from services.inference.rows import RowsInput
from services.inference.versions.serving import Serving
from tests.worlds.joy import BIG, Answer, Joy, service_of, serving_joy


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with serving_joy() as made:
        yield made


@pytest.fixture
def service(serving: Serving) -> InferenceService:
    return service_of(serving)


async def test_embed(service: InferenceService) -> None:
    answer = await service.Embed(EmbedRequest(model="joy", texts=["j", "ab"]))
    assert [list(e.values) for e in answer.embeddings] == [[1.0, 1.0], [0.0, 1.0]]
    assert answer.served.version == 4


async def test_rank_is_by_the_mean_over_a_candidates_texts(service: InferenceService) -> None:
    candidates = [
        Candidate(id="low", texts=["ab", "jb"]),
        Candidate(id="high", texts=["j", "j", "ja"]),
        Candidate(id="middle", texts=["jb"]),
    ]
    answer = await service.Rank(RankRequest(model="joy", candidates=candidates, label="joy"))
    assert [(r.id, round(r.score, 3)) for r in answer.ranked] == [("high", 0.833), ("middle", 0.5), ("low", 0.25)]


async def test_similar(service: InferenceService) -> None:
    answer = await service.Similar(SimilarRequest(model="joy", text="jolly"))
    assert [(n.similarity, n.row["text"]) for n in answer.neighbours] == [(0.9, "near"), (0.5, "far")]
    assert json.loads(answer.neighbours[0].row_json) == {"text": "near", "label": "joy", "id": BIG}
    assert answer.timing.infer.ToNanoseconds() > 0
    one = await service.Similar(SimilarRequest(model="joy", text="jolly", limit=5, label="gloom"))
    assert [n.row["text"] for n in one.neighbours] == ["far"]


async def test_similar_needs_an_index(service: InferenceService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Joy, "has_index", False)
    with pytest.raises(FailedPrecondition, match="no index"):
        await service.Similar(SimilarRequest(model="joy", text="jolly"))


async def test_similar_is_refused_like_every_call_when_the_engine_is_full(
    service: InferenceService, serving: Serving
) -> None:
    batcher = serving.find("joy", "champion").batcher
    async with batcher.admit(), batcher.admit():
        for call in (
            service.Similar(SimilarRequest(model="joy", text="jolly")),
            service.Embed(EmbedRequest(model="joy", texts=["jolly"])),
        ):
            with pytest.raises(Overloaded, match="2 requests wait"):
                await call
    assert (await service.Similar(SimilarRequest(model="joy", text="jolly"))).neighbours


async def test_a_search_counts_as_in_flight_and_ends_at_its_deadline(
    service: InferenceService, serving: Serving
) -> None:
    version = serving.find("joy", "champion")
    predictor: Any = version.predictor
    predictor.may_search.clear()
    first = asyncio.create_task(service.Similar(SimilarRequest(model="joy", text="jolly")))
    await asyncio.to_thread(predictor.searching.wait, 10)
    assert version.batcher.in_flight == 1
    row = RowsInput(["jolly"], lambda text, _: {"text": text}, "text", lambda _number, _column: "text", len)
    with pytest.raises(DeadlineExceeded):
        await service.predictions.similar(Call("joy", deadline=time.monotonic() + 0.05), row, limit=1)
    predictor.may_search.set()
    assert len((await first).neighbours) == 2
    assert version.batcher.in_flight == 0


def predict_request(*rows: dict[str, Any], model: str = "joy") -> PredictRequest:
    return ParseDict({"model": model, "rows": list(rows)}, PredictRequest())


async def test_predict_follows_the_schemas_of_the_recipe(service: InferenceService) -> None:
    for model in ("joy", "plain"):
        answer = await service.Predict(predict_request({"text": "j", "weight": 3}, {"text": "abcd"}, model=model))
        found = [Answer.model_validate(MessageToDict(prediction)) for prediction in answer.predictions]
        assert [p.embedding for p in found] == [[1.0, 3.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("call", "field", "text"),
    [
        (("Predict", predict_request()), "rows", "empty"),
        (("Predict", predict_request({"text": "a"}, {})), "rows[1].text", "required"),
        (("Predict", predict_request({"text": "a", "weight": "x"})), "rows[0].weight", "integer"),
        (("Predict", predict_request({"text": "a", "txet": "b"})), "rows[0].txet", "rows have text, weight"),
        (("Predict", predict_request({"text": "a", "weight": 1.5})), "rows[0].weight", "integer"),
        (("Embed", EmbedRequest(model="joy")), "texts", "empty"),
        (("Similar", SimilarRequest(model="joy")), "text", "at least 1"),
        (("Similar", SimilarRequest(model="joy", text="a", limit=-1)), "limit", "1 to 1000"),
        (("Similar", SimilarRequest(model="joy", text="a", label="x")), "label", "joy, gloom"),
        (("Rank", RankRequest(model="joy", label="joy")), "candidates", "empty"),
        (("Rank", RankRequest(model="joy", candidates=[Candidate(id="a", texts=["a"])])), "label", "empty"),
        (
            ("Rank", RankRequest(model="joy", label="fury", candidates=[Candidate(id="a", texts=["a"])])),
            "label",
            "use joy, gloom",
        ),
        (
            ("Rank", RankRequest(model="joy", label="joy", candidates=[Candidate(id="a")])),
            "candidates[0].texts",
            "empty",
        ),
        (
            ("Rank", RankRequest(model="joy", label="joy", candidates=[Candidate(id="a", texts=["a"])] * 2)),
            "candidates[1].id",
            "of its own",
        ),
        (
            ("Rank", RankRequest(model="joy", label="joy", candidates=[Candidate(id="a", texts=["a", ""])])),
            "candidates[0].texts[1]",
            "at least 1",
        ),
        (("ListServedModels", ListServedModelsRequest(page_size=-1)), "page_size", "page_size is -1"),
    ],
)
async def test_a_refusal_names_the_field(
    service: InferenceService, call: tuple[str, Any], field: str, text: str
) -> None:
    with pytest.raises(InvalidArgument, match=text) as refused:
        await getattr(service, call[0])(call[1])
    assert refused.value.field == field


@pytest.mark.parametrize("number", [math.nan, math.inf])
async def test_a_row_with_a_number_that_json_lacks_is_refused_by_its_place(
    service: InferenceService, number: float
) -> None:
    request = predict_request({"text": "a", "weight": 1}, {"text": "a", "weight": 1})
    request.rows[1].fields["weight"].number_value = number
    with pytest.raises(InvalidArgument) as refused:
        await service.Predict(request)
    assert refused.value.field == "rows[1].weight"


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Embed", EmbedRequest(model="plain", texts=["a"])),
        ("Similar", SimilarRequest(model="plain", text="a")),
        ("Rank", RankRequest(model="plain", label="joy", candidates=[Candidate(id="a", texts=["a"])])),
    ],
)
async def test_a_task_that_the_recipe_does_not_serve_names_those_it_does(
    service: InferenceService, method: str, request_: Any
) -> None:
    with pytest.raises(FailedPrecondition, match="serves classify; Predict serves every recipe"):
        await getattr(service, method)(request_)


async def test_the_deadline_of_the_call_is_kept(service: InferenceService) -> None:
    token = DEADLINE.set(0.0)
    try:
        with pytest.raises(DeadlineExceeded):
            await service.Classify(ClassifyRequest(model="joy", texts=["a"]))
    finally:
        DEADLINE.reset(token)


async def test_served_models_are_listed_in_pages(service: InferenceService) -> None:
    first = await service.ListServedModels(ListServedModelsRequest(page_size=1))
    rest = await service.ListServedModels(ListServedModelsRequest(page_token=first.next_page_token))
    assert [m.served.model for m in (*first.models, *rest.models)] == ["joy", "plain"]
    joy = first.models[0]
    assert (sorted(joy.columns), joy.other_columns) == (["text", "weight"], False), (
        "by them a client sends what is read"
    )
    one = await service.ListServedModels(ListServedModelsRequest(model="plain"))
    assert [m.served.model for m in one.models] == ["plain"] and not one.next_page_token
