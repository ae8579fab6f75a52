"""What was measured is what is served: rows sent as callers have them are read as those of the snapshot were.

The same raw rows go through dataprep's import into the evaluator, and through inference's RPCs, for every way of cleaning.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.struct_pb2 import Struct
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from millstream.dataset.v1 import dataset_pb2 as proto
from millstream.errors import InvalidArgument
from millstream.inference.v1.inference_service_pb2 import ClassifyRequest, PredictRequest
from millstream.registry.v1.model_pb2 import ModelVersion
from recipekit.catalog import Catalog
from recipekit.cleaning import Cleaning, cleaner
from recipekit.predictor import load_artifact, predict, write_cleaning, write_golden
from recipekit.run import Data, LocalRun
from recipekit.spec import Prediction, Row
from servicekit.blobs import artifacts
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.parts import unpack_rows
from services.dataprep.pipeline.ingest import ImportProgress, Job, ingest
from services.evaluator.measure import ChampionModel, measure
from services.inference.engine.queue import Limits
from services.inference.store import Store
from services.inference.versions.loader import FailedHere, Loader
from services.inference.versions.serving import Serving
from tests.recipes.toy_words.spec import SPEC
from tests.worlds.joy import service_of

CATALOG = Catalog(("tests.recipes",))
OPTIONS = ("strip_html", "keep_whitespace", "fix_encoding")
EVERY = [dict(zip(OPTIONS, chosen, strict=True)) for chosen in product((False, True), repeat=3)]
IDS = ["+".join(name for name, on in options.items() if on) or "none" for options in EVERY]
SIGNS = [
    *("good ", "bad ", "mill", " ", "\t\n", "\r\n", "\x85", "\u00a0", "\u2003", "\x00", "\x07", "e\u0301", "\u0301"),
    *("<b>", "</b>", "<br>", "<P class='x'>", "<<b>b>", "<!-- ", " -->", "<script>", "</script>", "3 < 5 ", "<"),
    *("&amp;lt;", "&lt;b&gt;", "&amp;", "&amp;amp;", "&nbsp;", "&#3093;", "&", ";"),
    *("schÃ¶n ", "à°¸à°¿à°¨à°¿à°®à°¾ ", "â€œgoodâ€\x9d", "\u0c15\u0c4d\u200d\u0c37", "సినిమా "),
]
RAW = st.lists(st.sampled_from(SIGNS) | st.text(max_size=4), min_size=1, max_size=12).map("".join)


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """Texts of all signs, whose label half of the signs decide."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        signs = rng.choices(SIGNS, k=6)
        label = "good" if sum(SIGNS.index(sign) % 2 for sign in signs) > 3 else "bad"
        found.append({"text": f" row{seed}x{number}\t{''.join(signs)}", "label": label})
    return found


def imported(
    options: dict[str, bool], raw: Sequence[Row], labels: Mapping[Any, Any] | None = None
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each split, as dataprep keeps them of a file that may write labels otherwise; `raw` is the test split."""
    given = [("train", rows(80, 1)), ("validation", rows(20, 2)), ("test", raw)]
    found = [
        {**row, "label": labels[row["label"]] if labels else row["label"], "fold": split}
        for split, some in given
        for row in some
    ]
    file = b"".join(json.dumps(row).encode() + b"\n" for row in found)
    spec = proto.DatasetSpec(cleaning=proto.Cleaning(**options), split=proto.SplitSpec(column="fold"))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(file)
        result = ingest(Job(path, proto.FORMAT_JSON_LINES, spec, SPEC, 1 << 26), Path(folder), ImportProgress())
        return {part.split: unpack_rows(part.path.read_bytes()) for part in result.parts}


@pytest.fixture(scope="module", params=EVERY, ids=IDS)
def options(request: pytest.FixtureRequest) -> dict[str, bool]:
    chosen: dict[str, bool] = request.param
    return chosen


@pytest.fixture(scope="module")
def artifact(options: dict[str, bool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on rows of a snapshot that were cleaned by the options."""
    return trained(options, tmp_path_factory.mktemp("run"))


def trained(options: dict[str, bool], folder: Path, labels: Mapping[Any, Any] | None = None) -> Path:
    splits = imported(options, rows(20, 3), labels)
    run = LocalRun(folder)
    CATALOG.fit(SPEC.name)(SPEC.configure("toy", {}), Data(splits["train"], splits["validation"]), run)
    write_cleaning(run.artifact, Cleaning.of(options))
    write_golden(run.artifact, CATALOG, splits["validation"])
    return run.artifact


class Served:
    """One artifact behind inference's RPCs, in a loop of its own."""

    def __init__(self, artifact: Path, cache: Path) -> None:
        self.runner, self.pool, self.serving = asyncio.Runner(), ThreadPoolExecutor(2), Serving()
        self.service = service_of(self.serving)
        try:
            self.runner.run(self._load(artifact, cache))
        except BaseException:
            self.close()
            raise

    async def _load(self, artifact: Path, cache: Path) -> None:
        blobs = MemoryBlobs()
        version = ModelVersion(model="words", version=1, artifact=await artifacts.store(blobs, artifact))
        loader = Loader(blobs, Store(blobs, 600), CATALOG, cache, Limits(), self.pool)
        self.serving.put("words", "champion", await loader.load(version))

    def predict(self, *texts: str) -> list[Prediction]:
        request = PredictRequest(model="words")
        for text in texts:
            request.rows.append(Struct())
            request.rows[-1].update({"text": text})
        response = self.runner.run(self.service.Predict(request))
        return [MessageToDict(prediction) for prediction in response.predictions]

    def close(self) -> None:
        self.runner.run(self.serving.close())
        self.runner.close()
        self.pool.shutdown()


@pytest.fixture(scope="module")
def served(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Served(artifact, tmp_path_factory.mktemp("cache"))
    yield found
    found.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Served]]:
    started: list[Served] = []

    def start(artifact: Path) -> Served:
        started.append(Served(artifact, tmp_path / "cache"))
        return started[-1]

    yield start
    for one in started:
        one.close()


@given(texts=st.lists(RAW, min_size=1, max_size=8))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_raw_text_is_answered_as_the_row_that_the_import_made_of_it(
    options: dict[str, bool], artifact: Path, served: Served, texts: list[str]
) -> None:
    raw = [{"text": f" \n given{number} {text}", "label": "good"} for number, text in enumerate(texts)]
    kept = {row["text"].split()[0]: row for row in imported(options, raw)["test"]}
    expected = predict(load_artifact(artifact, CATALOG)[1], [kept[f"given{i}"] for i in range(len(raw))])
    assert served.predict(*(row["text"] for row in raw)) == expected


def test_the_reports_figures_are_those_of_what_callers_get(
    options: dict[str, bool], artifact: Path, served: Served
) -> None:
    raw = rows(120, 4)
    splits = imported(options, raw)
    figures = measure(artifact, splits["train"], splits["test"], None, CATALOG, splits["validation"])
    answers = served.predict(*(row["text"] for row in raw))
    assert figures.rows_compared == len(raw)
    assert figures.candidate.metrics == SPEC.measure(raw, answers).metrics


def test_a_text_is_cleaned_as_a_row_is(options: dict[str, bool], served: Served) -> None:
    texts = ["<b>good</b>  schÃ¶n &amp;lt; bad", " mill<br>bad\x85"]
    expected = [prediction["scores"]["good"] for prediction in served.predict(*texts)]
    classified = served.runner.run(served.service.Classify(ClassifyRequest(model="words", texts=texts)))
    assert [found.scores["good"] for found in classified.classifications] == pytest.approx(expected)


@pytest.mark.parametrize("labels", [("0", "1"), ("0.0", "1.00"), (0, 1), (0.0, 1.0)], ids=repr)
def test_numeric_labels_are_measured_and_answered_in_one_spelling(
    labels: tuple[Any, Any], tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    spelt = dict(zip(("bad", "good"), labels, strict=True))
    raw = rows(60, 7)
    artifact = trained({}, tmp_path, spelt)
    splits = imported({}, raw, spelt)
    figures = measure(artifact, splits["train"], splits["test"], None, CATALOG, splits["validation"])
    answers = serve(artifact).predict(*(row["text"] for row in raw))
    assert {answer["label"] for answer in answers} == {"0", "1"}
    truth = [{**row, "label": {"bad": "0", "good": "1"}[row["label"]]} for row in raw]
    assert figures.candidate.metrics == SPEC.measure(truth, answers).metrics
    assert figures.labels.version.keys() == {"0", "1"}


def test_a_champion_of_decimals_has_no_label_in_common_with_a_version_of_integers(tmp_path: Path) -> None:
    splits = imported({}, rows(60, 7), {"bad": "0.0", "good": "1.0"})
    before = [{**row, "label": f"{row['label']}.0"} for row in splits["train"]]
    champion = ChampionModel(7, train=before, recipe=SPEC.name, missing="it is of an earlier version")
    artifact = trained({}, tmp_path, {"bad": "0.0", "good": "1.0"})
    figures = measure(artifact, splits["train"], splits["test"], champion, CATALOG, splits["validation"])
    assert figures.labels.is_disjoint, "a person decides what becomes of a champion whose answers were '0.0' and '1.0'"


HTML = {"strip_html": True}


def test_a_text_that_cannot_be_cleaned_is_refused_by_its_field(tmp_path: Path, serve: Callable[[Path], Served]) -> None:
    served = serve(trained(HTML, tmp_path))
    with pytest.raises(InvalidArgument, match=r"rows\[1\]\.text: broken HTML") as caught:
        served.predict("good", f"&#{'9' * 5000};")
    assert caught.value.field == "rows[1].text"


def test_a_text_of_nothing_but_tags_is_refused_as_the_import_refuses_it(
    tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    served = serve(trained(HTML, tmp_path))
    with pytest.raises(InvalidArgument, match=r"rows\[0\]\.text: .*at least 1 character"):
        served.predict("<p> </p>")
    (row,) = imported(HTML, [*rows(1, 6), {"text": "<p> </p>", "label": "good"}])["quarantine"]
    assert row["reason"] == "text: too short"


def test_an_artifact_that_records_no_cleaning_is_served_as_before(
    tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    artifact = trained(HTML, tmp_path)
    (artifact / "cleaning.json").unlink()
    text = "<b>good</b> mill"
    assert serve(artifact).predict(text) == predict(load_artifact(artifact, CATALOG)[1], [{"text": text}])


def test_an_artifact_cleaned_by_a_later_version_waits_for_an_upgrade(
    tmp_path: Path, serve: Callable[[Path], Served]
) -> None:
    artifact = trained(HTML, tmp_path)
    (artifact / "cleaning.json").write_text('{"strip_emoji": true}')
    with pytest.raises(FailedHere, match="strip_emoji"):
        serve(artifact)


def test_a_champion_of_rows_cleaned_otherwise_reads_them_as_it_will_serve_them(tmp_path: Path) -> None:
    candidate, champion = trained({}, tmp_path / "candidate"), trained(HTML, tmp_path / "champion")
    raw = rows(120, 5)
    splits = imported({}, raw)
    other = ChampionModel(7, folder=champion, recipe=SPEC.name)
    figures = measure(candidate, splits["train"], splits["test"], other, CATALOG, splits["validation"])
    html = [cleaner(Cleaning(strip_html=True))(row) for row in raw]
    answers = predict(load_artifact(champion, CATALOG)[1], html)
    assert figures.champion is not None and figures.champion.metrics == SPEC.measure(raw, answers).metrics
    assert len(figures.notes) == 1 and "version 7, was trained on rows cleaned otherwise" in figures.notes[0]
