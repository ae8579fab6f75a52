"""What one request may cost is known before it is prepared, and its rows hold up no other caller."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from millstream.errors import DeadlineExceeded, InvalidArgument, Overloaded
from millstream.inference.v1.inference_service_pb2 import (
    Candidate,
    ClassifyRequest,
    EmbedRequest,
    PredictRequest,
    RankRequest,
    SimilarRequest,
)
from recipekit.text_limits import LONGEST_TEXT
from services.inference.doors.native import InferenceService
from services.inference.engine.queue import Limits
from services.inference.predictions import Call, Predictions
from services.inference.rows import RowsInput
from services.inference.versions.serving import Serving
from tests.worlds.joy import service_of, serving_joy


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    async with serving_joy() as made:
        yield made


@pytest.fixture
def service(serving: Serving) -> InferenceService:
    return service_of(serving)


async def test_rows_of_others_are_prepared_between_the_slices_of_a_large_request(
    service: InferenceService, serving: Serving
) -> None:
    """One thread prepares for all models here, so a request that held it would hold up its neighbours."""
    large: Any = serving.find("joy", "champion").predictor
    small: Any = serving.find("plain", "champion").predictor
    small.prepared = large.prepared
    large.may_prepare.clear()
    texts = ["j" * LONGEST_TEXT] * 8
    attack = asyncio.create_task(service.Classify(ClassifyRequest(model="joy", texts=texts)))
    await asyncio.to_thread(large.preparing.wait, 10)
    neighbour = asyncio.create_task(service.Classify(ClassifyRequest(model="plain", texts=["jo", "y"])))
    await asyncio.sleep(0)
    large.may_prepare.set()
    assert len((await neighbour).classifications) == 2 and not attack.done()
    assert len((await attack).classifications) == 8
    assert large.prepared[:3] == [1, 2, 1] and sorted(large.prepared) == [1] * 8 + [2]


async def test_no_slice_is_prepared_after_the_deadline(serving: Serving) -> None:
    version = serving.find("joy", "champion")
    predictor: Any = version.predictor
    predictor.may_prepare.clear()
    row = RowsInput(
        ["j" * LONGEST_TEXT] * 5, lambda text, _: {"text": text}, "text", lambda _number, _column: "text", len
    )
    with pytest.raises(DeadlineExceeded):
        await Predictions(serving).predict(Call("joy", deadline=time.monotonic() + 0.05), row)
    predictor.may_prepare.set()
    assert len((await Predictions(serving).predict(Call("joy"), row)).values) == 5
    # On a busy machine the deadline may pass before the first of the late call's five.
    assert predictor.prepared in ([1] * 5, [1] * 6) and version.batcher.characters == 0


async def test_a_text_that_is_too_long_is_refused_by_name(service: InferenceService, serving: Serving) -> None:
    long = "j" * (LONGEST_TEXT + 1)
    request = RankRequest(model="joy", candidates=[Candidate(id="a", texts=["j", long])], label="joy")
    row = ParseDict({"model": "joy", "rows": [{"text": "j"}, {"text": long}]}, PredictRequest())
    for call, field in (
        (service.Classify(ClassifyRequest(model="joy", texts=["j", long])), "texts[1]"),
        (service.Embed(EmbedRequest(model="joy", texts=[long])), "texts[0]"),
        (service.Similar(SimilarRequest(model="joy", text=long)), "text"),
        (service.Rank(request), "candidates[0].texts[1]"),
        (service.Predict(row), "rows[1].text"),
    ):
        with pytest.raises(InvalidArgument, match="more than 100,000 characters: shorten it") as refused:
            await call
        assert refused.value.field == field
    predictor: Any = serving.find("joy", "champion").predictor
    assert predictor.prepared == [1, 1, 1], "only the slices before the long rows were prepared"


@pytest.mark.parametrize("task", ["classify", "predict", "rank", "similar"])
async def test_characters_are_admitted_before_they_are_prepared(task: str, serving: Serving) -> None:
    version = serving.find("joy", "champion")
    version.batcher.limits = Limits(queue_characters=100, queue_requests=10)
    predictor: Any = version.predictor
    predictor.may_prepare.clear()
    service = service_of(serving)
    first = asyncio.create_task(service.Classify(ClassifyRequest(model="joy", texts=["j" * 60])))
    await asyncio.to_thread(predictor.preparing.wait, 10)
    text = "j" * 41
    asked: dict[str, Any] = {
        "classify": lambda: service.Classify(ClassifyRequest(model="joy", texts=[text])),
        "predict": lambda: service.Predict(ParseDict({"model": "joy", "rows": [{"text": text}]}, PredictRequest())),
        "rank": lambda: service.Rank(
            RankRequest(model="joy", candidates=[Candidate(id="a", texts=[text])], label="joy")
        ),
        "similar": lambda: service.Similar(SimilarRequest(model="joy", text=text)),
    }
    with pytest.raises(Overloaded, match="60 characters in 1 requests"):
        await asked[task]()
    predictor.may_prepare.set()
    await first
    assert predictor.prepared == [1] and version.batcher.characters == 0
    await asked[task]()
    assert (await service.Classify(ClassifyRequest(model="joy", texts=["j" * 101]))).classifications, (
        "alone it is taken"
    )
