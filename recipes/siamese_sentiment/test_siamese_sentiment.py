"""What is special about siamese_sentiment: Telugu text, pairs, both tokenizers, the reference's size, its index."""

import json
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipekit.catalog import Catalog
from recipekit.predictor import predict
from recipekit.run import Data, LocalRun
from recipekit.text_limits import LONGEST_WORD
from recipes.siamese_sentiment.data import (
    LONGEST_CACHED,
    HashedNgrams,
    Vocabulary,
    load_tokenizer,
    make_tokenizer,
    partners,
)
from recipes.siamese_sentiment.model import SiameseSentiment, contrastive
from recipes.siamese_sentiment.predict import SentimentPredictor, load
from recipes.siamese_sentiment.sample import reviews
from recipes.siamese_sentiment.spec import SPEC, Config, balanced_pairs, measure
from recipes.siamese_sentiment.text import ngrams, normalise, words

HERE = Path(__file__).parent
REFERENCE_PARAMETERS = 2_597_638
TELUGU = "ఈ సినిమా అద్భుతంగా ఉంది, నటన కూడా!"


def test_the_sample_is_what_its_generator_makes() -> None:
    shipped = [json.loads(line) for line in (HERE / "sample.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert shipped == reviews(), "run `python -m recipes.siamese_sentiment.sample > sample.jsonl` in this folder"
    assert len(shipped) == 500
    assert set(Counter(row["label"] for row in shipped)) == {"positive", "negative", "neutral"}


def test_combining_marks_are_never_stripped() -> None:
    text = "నేను కృష్ణుడి చిత్రం చూశాను"
    marks = [c for c in text if unicodedata.category(c).startswith("M")]
    assert [c for c in normalise(text) if unicodedata.category(c).startswith("M")] == marks
    assert "".join(words(text)) == text.replace(" ", "")


def test_composed_and_decomposed_text_are_the_same_words() -> None:
    """U+0C48 (AI) is also U+0C46 + U+0C56: a reader sees no difference, so the model may see none."""
    assert words("\u0c15\u0c48") == words("\u0c15\u0c46\u0c56")


def test_zero_width_characters_do_not_split_words() -> None:
    assert words("మ్యాచ్\u200cలో") == words("మ్యాచ్లో") == ["మ్యాచ్లో"]


def test_signs_are_words_of_their_own() -> None:
    assert words(TELUGU) == ["ఈ", "సినిమా", "అద్భుతంగా", "ఉంది", ",", "నటన", "కూడా", "!"]


@pytest.mark.timeout(20)
def test_a_text_made_to_be_slow_is_not() -> None:
    """The time of each of these grew with the square of the length: minutes for one."""
    assert words("x" * 1_000_000) == ["x" * LONGEST_WORD]
    assert words("a" + "\u0301\u0316" * 500_000) == ["á" + "\u0316" * 15 + "\u0301" * 14]
    assert words("ka\u0c4d" * 300_000) == ["ka\u0c4d" * (LONGEST_WORD // 3) + "ka"]
    base64 = "QUJD" * 16 + "+" + "ZGVm" * 50 + "/"
    assert words(base64 * 15_000, 6) == ["qujd" * 16, "+", ("zgvm" * 50)[:LONGEST_WORD], "/", "qujd" * 16, "+"]


@given(st.text(alphabet="ab\u0c15\u0c4d\u0301 ,\n", max_size=40), st.integers(0, 12))
def test_the_first_words_are_the_beginning_of_all_words(text: str, most: int) -> None:
    assert words(text, most) == words(text)[:most]


@given(st.text(max_size=60))
def test_any_text_gives_words_without_spaces_and_loses_no_letter(text: str) -> None:
    found = words(text)
    assert all(found) and not any(c.isspace() for word in found for c in word)
    letters = [c for c in normalise(text) if unicodedata.category(c)[0] in "LMN"]
    assert [c for word in found for c in word if unicodedata.category(c)[0] in "LMN"] == letters


def test_ngrams_hold_the_word_and_its_ends() -> None:
    assert list(ngrams("కథ", 2, 3)) == ["<కథ>", "<క", "కథ", "థ>", "<కథ", "కథ>"]


def test_ngrams_end_at_the_whole_word() -> None:
    assert list(ngrams("కథ", 2, 10**12)) == list(ngrams("కథ", 2, 3)), "no longer n-gram is looked for"


def test_long_words_are_not_kept_in_memory() -> None:
    tokenizer = HashedNgrams.of(Config())
    short, long = "a" * LONGEST_CACHED, "a" * (LONGEST_CACHED + 1)
    assert tokenizer.rows_of(short) is tokenizer.rows_of(short)
    assert tokenizer.rows_of(long) is not tokenizer.rows_of(long)
    assert tokenizer.features_of(long) is not tokenizer.features_of(long)


@pytest.mark.parametrize("kind", ["ngrams", "vocabulary"])
def test_a_tokenizer_saved_as_json_comes_back_the_same(kind: str, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(Config(words=kind, vocabulary_size=20), [row["text"] for row in reviews(50)])
    tokenizer.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path / "tokenizer.json")
    rows = [tokenizer.cut(text) for text in (TELUGU, "", "xyz", TELUGU * 3)]
    assert rows == [again.cut(text) for text in (TELUGU, "", "xyz", TELUGU * 3)]
    expected, got = tokenizer.tensors(rows), again.tensors(rows)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)


def test_the_reference_has_the_parameters_of_the_original() -> None:
    """With 180 words, the unknown one counted, and a padding row."""
    config = SPEC.configure("reference", {"vocabulary_size": 180})
    assert isinstance(config, Config)
    tokenizer = Vocabulary([str(i) for i in range(179)], config.longest_review)
    model = SiameseSentiment(config, table_rows=tokenizer.rows, classes=3)
    assert sum(parameter.numel() for parameter in model.parameters()) == REFERENCE_PARAMETERS


def test_contrastive_loss_by_hand() -> None:
    """Alike 0.8 → distance 0.2: 0.04 for a pair of one class, (1 − 0.2)² for a pair of two."""
    alike = torch.tensor([0.8, 0.8])
    loss = contrastive(alike, torch.tensor([True, False]), margin=1.0)
    assert loss.item() == pytest.approx((0.04 + 0.64) / 2)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=30), st.integers(0, 9))
def test_pairs_are_of_different_reviews_and_balanced(labels: list[str], seed: int) -> None:
    pairs = balanced_pairs(labels, 40, seed)
    assert all(left != right for left, right in pairs)
    assert pairs == balanced_pairs(labels, 40, seed)
    alike = sum(labels[left] == labels[right] for left, right in pairs)
    repeats, several = max(Counter(labels).values()) > 1, len(set(labels)) > 1
    assert (alike, len(pairs) - alike) == (20 * repeats, 20 * several)


def test_partners_in_a_batch_are_balanced() -> None:
    labels = [0, 0, 1, 1, 2, 0, 1, 2]
    left, right = partners(labels, np.random.default_rng(0))
    assert len(left) == len(labels) and not bool((left == right).any())
    alike = [labels[a] == labels[b] for a, b in zip(left.tolist(), right.tolist(), strict=True)]
    assert sum(alike) == len(labels) / 2


def test_pair_accuracy_is_not_single_accuracy() -> None:
    """Labels may be right while all embeddings are the same."""
    rows = [{"text": str(i), "label": "ab"[i % 2]} for i in range(20)]
    same = [{"label": row["label"], "confidence": 1.0, "scores": {}, "embedding": [1.0, 0.0]} for row in rows]
    metrics = measure(rows, same).metrics
    assert metrics["accuracy"] == 1.0
    assert metrics["pair_accuracy"] == 0.5


@pytest.mark.parametrize(("kind", "context"), [("ngrams", "lstm"), ("ngrams", "none"), ("vocabulary", "lstm")])
def test_padding_changes_no_prediction(kind: str, context: str) -> None:
    """An untrained model of either tokenizer, with and without LSTM, predicts for a mixed batch as for one row at a time."""
    torch.manual_seed(0)
    config = SPEC.configure("toy", {"words": kind, "context": context, "layers": 2, "longest_review": 64})
    assert isinstance(config, Config)
    tokenizer = make_tokenizer(config, [TELUGU])
    predictor = SentimentPredictor(SiameseSentiment(config, tokenizer.rows, 3), tokenizer, ["a", "b", "c"])
    items = predictor.prepare([{"text": text} for text in (TELUGU, "", "క", TELUGU * 40, "?!")])
    together = predictor.forward(items)
    for number, item in enumerate(items):
        alone = predictor.forward([item])[0]
        assert together[number]["embedding"] == pytest.approx(alone["embedding"], abs=1e-5)
        assert together[number]["scores"] == pytest.approx(alone["scores"], abs=1e-5)


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_the_other_presets_train_and_resume_exactly(preset: str, tmp_path: Path) -> None:
    """The toy preset has neither an LSTM nor made pairs nor an averaged model; these do, on a handful of reviews."""
    small = {
        "hidden_size": 16, "embedding_size": 16, "epochs": 2, "checkpoint_every": 3, "pair_count": 60,
        "batch_rows": 8, "precision": "fp32", "threads": 1, "patience": None,
    }  # fmt: skip
    if preset == "default":
        small |= {"buckets": 1024, "wide_buckets": 4096}
    config = SPEC.configure(preset, small)
    rows = reviews(70)
    data = Data(train=rows[:50], validation=rows[50:])
    whole, parts = LocalRun(tmp_path / "whole"), LocalRun(tmp_path / "parts")
    fit = Catalog().fit(SPEC.name)
    fit(config, data, whole)

    class Die(Exception):
        pass

    def die(progress: object) -> None:
        if parts.latest_checkpoint() is not None:
            raise Die

    parts.on_progress = die
    with pytest.raises(Die):
        fit(config, data, parts)
    parts.on_progress = lambda progress: None
    fit(config, data, parts)
    for name in ("model.safetensors", "history.json"):
        assert (whole.artifact / name).read_bytes() == (parts.artifact / name).read_bytes(), f"{name} differs"


def test_similar_finds_the_review_itself_first_and_filters_by_label(tmp_path: Path) -> None:
    rows = reviews(150)
    run = LocalRun(tmp_path)
    Catalog().fit(SPEC.name)(SPEC.configure("toy", {"epochs": 2}), Data(rows[:120], rows[120:]), run)
    predictor = load(run.artifact)
    prediction = predict(predictor, [rows[0]])[0]
    near = predictor.similar(prediction, limit=5)
    assert near[0].similarity == pytest.approx(1.0, abs=1e-5)
    assert rows[0]["text"] in [n.row["text"] for n in near if n.similarity > 1 - 1e-5]
    assert [n.similarity for n in near] == sorted((n.similarity for n in near), reverse=True)
    assert {"text", "label", "movie"} <= near[0].row.keys(), "the index keeps the columns of its rows"
    only = predictor.similar(prediction, limit=1000, label="negative")
    assert {n.row["label"] for n in only} == {"negative"}
    assert len(only) == sum(row["label"] == "negative" for row in rows[:120])


def test_ngrams_need_no_vocabulary() -> None:
    tokenizer = HashedNgrams(1024, 2, 4, 16, wide_buckets=0)
    tensors = tokenizer.tensors([tokenizer.cut("ఎప్పుడూచూడనిపదం")])
    assert len(tensors["ngrams"]) > 3 and int(tensors["ngrams"].max()) < 1024
