"""The first real recipe, served: batches of many callers give the same predictions as one row at a time."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from millstream.errors import InvalidArgument
from millstream.inference.v1.inference_service_pb2 import (
    Candidate,
    ClassifyRequest,
    EmbedRequest,
    RankRequest,
    SimilarRequest,
)
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.catalog import Catalog
from recipekit.cleaning import Cleaning
from recipekit.predictor import load_artifact, predict, write_cleaning, write_golden
from recipekit.run import Data, LocalRun
from recipekit.text_limits import LONGEST_TEXT
from servicekit.blobs import artifacts
from servicekit.blobs.memory import MemoryBlobs
from services.inference.doors.native import InferenceService
from services.inference.engine.queue import Limits
from services.inference.store import Store
from services.inference.versions.loader import Loader
from services.inference.versions.serving import Serving
from tests.worlds.joy import service_of

CATALOG = Catalog(("recipes",))
RECIPE = "siamese_sentiment"
pytestmark = [
    pytest.mark.skipif(RECIPE not in CATALOG.names(), reason=f"there is no recipe {RECIPE}"),
    pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed (dependency group `recipes`)"),
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (CATALOG.folder(RECIPE) / "sample.jsonl").read_text().splitlines()
    return [json.loads(line)["text"] for line in lines[:60]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = (CATALOG.folder(RECIPE) / "sample.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:120]]
    run = LocalRun(tmp_path_factory.mktemp("siamese"))
    config = CATALOG.spec(RECIPE).configure("toy", {"epochs": 1})
    CATALOG.fit(RECIPE)(config, Data(rows[:90], rows[90:]), run)
    write_cleaning(run.artifact, Cleaning(strip_html=True))
    write_golden(run.artifact, CATALOG, rows[90:])
    return run.artifact


@pytest.fixture
async def service(folder: Path, tmp_path: Path) -> AsyncIterator[InferenceService]:
    blobs, serving = MemoryBlobs(), Serving()
    artifact = await artifacts.store(blobs, folder)
    with ThreadPoolExecutor(2) as pool:
        limits = Limits(batch_tokens=1024)
        loader = Loader(blobs, Store(blobs, 600), CATALOG, tmp_path, limits, pool)
        version = await loader.load(ModelVersion(model="reviews", version=1, artifact=artifact))
        serving.put("reviews", "champion", version)
        yield service_of(serving)
        await serving.close()


async def test_the_recipe_is_served(service: InferenceService, folder: Path, texts: list[str]) -> None:
    rng = random.Random(5)
    wanted = [rng.choices(texts, k=rng.randint(1, 6)) for _ in range(60)]
    requests = [ClassifyRequest(model="reviews", texts=some) for some in wanted]
    answers = await asyncio.gather(*(service.Classify(request) for request in requests))
    predictor: Any = load_artifact(folder, CATALOG)[1]
    alone = {text: predict(predictor, [{"text": text}])[0] for text in texts}
    for some, answer in zip(wanted, answers, strict=True):
        for text, got in zip(some, answer.classifications, strict=True):
            assert dict(got.scores) == pytest.approx(alone[text]["scores"], abs=TOLERANCE)
    embedded = await service.Embed(EmbedRequest(model="reviews", texts=texts))
    for text, embedding in zip(texts, embedded.embeddings, strict=True):
        assert list(embedding.values) == pytest.approx(alone[text]["embedding"], abs=TOLERANCE)
    near = (await service.Similar(SimilarRequest(model="reviews", text=texts[0], limit=3))).neighbours
    assert near[0].row["text"] == texts[0] and near[0].similarity == pytest.approx(1, abs=1e-3)
    label = next(iter(alone[texts[0]]["scores"]))
    candidates = [Candidate(id=str(i), texts=texts[i * 3 : i * 3 + 3]) for i in range(4)]
    ranked = (await service.Rank(RankRequest(model="reviews", label=label, candidates=candidates))).ranked
    means = {c.id: sum(alone[text]["scores"][label] for text in c.texts) / 3 for c in candidates}
    assert [r.id for r in ranked] == sorted(means, key=lambda name: -means[name])


@pytest.mark.timeout(60)
async def test_texts_made_to_be_slow_hold_up_no_other_caller(service: InferenceService, texts: list[str]) -> None:
    """Each of these took minutes, and the marks held the interpreter meanwhile, so that not even health answered."""
    with pytest.raises(InvalidArgument, match="more than 100,000 characters") as refused:
        await service.Classify(ClassifyRequest(model="reviews", texts=[texts[0], "x" * 1_000_000]))
    assert refused.value.field == "texts[1]"
    slow = ["x" * LONGEST_TEXT, "a" + "\u0301\u0316" * 49_999, ("QUJD" * 24 + "+/") * 1_000, "ka\u0c4d" * 33_333]
    attack = asyncio.create_task(service.Classify(ClassifyRequest(model="reviews", texts=slow * 10)))
    await asyncio.sleep(0)
    answer = await service.Classify(ClassifyRequest(model="reviews", texts=texts[:1]))
    assert len(answer.classifications) == 1 and not attack.done()
    assert len((await attack).classifications) == 40


async def test_embed_similar_and_rank_clean_their_texts(service: InferenceService, texts: list[str]) -> None:
    raw = f"<p>{texts[0].replace(' ', '<br> ')}</p>"
    embedded = await service.Embed(EmbedRequest(model="reviews", texts=[texts[0], raw]))
    clean, dirty = (list(found.values) for found in embedded.embeddings)
    assert dirty == pytest.approx(clean, abs=TOLERANCE)
    (near,) = (await service.Similar(SimilarRequest(model="reviews", text=raw, limit=1))).neighbours
    assert near.row["text"] == texts[0] and near.similarity == pytest.approx(1, abs=1e-3)
    label = str(near.row["label"])
    candidates = [Candidate(id="clean", texts=[texts[0]]), Candidate(id="raw", texts=[raw])]
    one, other = (await service.Rank(RankRequest(model="reviews", label=label, candidates=candidates))).ranked
    assert one.score == pytest.approx(other.score, abs=TOLERANCE)
