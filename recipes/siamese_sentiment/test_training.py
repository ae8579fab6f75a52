"""What a training of siamese_sentiment leaves in its artifact, and how it makes its batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from recipekit.run import Data, LocalRun
from recipes.siamese_sentiment.data import Reviews, make_tokenizer
from recipes.siamese_sentiment.sample import reviews
from recipes.siamese_sentiment.spec import SPEC, Config
from recipes.siamese_sentiment.train import InBatchPairs, MadePairs, fit

ROWS = reviews(60)


def configure(**overrides: object) -> Config:
    config = SPEC.configure("toy", {"epochs": 1, **overrides})
    assert isinstance(config, Config)
    return config


def labelled(config: Config) -> Reviews:
    texts = [row["text"] for row in ROWS]
    labels = sorted({row["label"] for row in ROWS})
    return Reviews(texts, [labels.index(row["label"]) for row in ROWS], make_tokenizer(config, texts))


def test_the_artifact_holds_weights_index_history_and_a_card(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    fit(configure(), Data(ROWS[:45], ROWS[45:]), run)
    assert {path.name for path in run.artifact.iterdir()} == {
        "README.md", "artifact.json", "environment.json", "history.json", "index.json", "index.safetensors",
        "labels.json", "model.safetensors", "tokenizer.json", "training_history.png",
    }  # fmt: skip
    embeddings = load_file(run.artifact / "index.safetensors")["embeddings"]
    assert json.loads((run.artifact / "index.json").read_text()) == ROWS[:45]
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(45))


def test_few_reviews_are_trained_for_the_floor_of_steps(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    fit(configure(min_steps=20), Data(ROWS[:45], ROWS[45:]), run)
    history = json.loads((run.artifact / "history.json").read_text())
    assert 20 <= history[-1]["step"] < 22, "as many whole epochs as the floor needs"
    default = SPEC.configure("default", {})
    assert isinstance(default, Config) and default.min_steps >= 200, "with fewer the embeddings of small files collapse"


def test_weights_are_chosen_by_labels_and_embeddings_alike(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    config = configure(epochs=12, wide=True, wide_buckets=4096, contrastive_weight=0.2, learning_rate=1e-3)
    fit(config, Data(ROWS[:45], ROWS[45:]), run)
    history = json.loads((run.artifact / "history.json").read_text())
    scores = [entry["validation"]["macro_f1"] + entry["validation"]["pair_accuracy"] for entry in history]
    best = history[scores.index(max(scores))]
    assert f"at step {best['step']} of" in (run.artifact / "README.md").read_text()
    labels_alone = [entry["validation"]["macro_f1"] for entry in history]
    assert labels_alone.index(max(labels_alone)) != history.index(best), "the two would choose alike on these rows"


def test_the_card_tells_labels_size_and_the_best_validation(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    fit(configure(), Data(ROWS[:45], ROWS[45:]), run)
    card = (run.artifact / "README.md").read_text()
    history = json.loads((run.artifact / "history.json").read_text())
    weights = load_file(run.artifact / "model.safetensors")
    parameters = sum(t.numel() for name, t in weights.items() if name not in ("adjustment", "class_weight"))
    assert card.startswith("---\nlibrary_name: millstream\n") and "negative, neutral, positive" in card
    assert f"{parameters:,} parameters, trained on 45 reviews" in card
    assert f"| macro_f1 | {history[0]['validation']['macro_f1']:.4f} |" in card
    assert '"epochs": 1' in card, "the card lacks the config"


def test_the_card_of_an_english_model_names_no_other_language(tmp_path: Path) -> None:
    rows = [{"text": f"{word} film {number}", "label": word} for number in range(20) for word in ("good", "bad")]
    run = LocalRun(tmp_path)
    fit(configure(), Data(rows[:30], rows[30:]), run)
    card = (run.artifact / "README.md").read_text()
    assert "language:" not in card and "Telugu" not in card


def test_validation_rows_of_unknown_labels_are_left_out_and_none_left_is_an_error(tmp_path: Path) -> None:
    strange = [{"text": row["text"], "label": "strange"} for row in ROWS[45:]]
    fit(configure(), Data(ROWS[:45], [ROWS[50], *strange]), LocalRun(tmp_path / "one"))
    with pytest.raises(ValueError, match="no validation row has a label of the training rows"):
        fit(configure(), Data(ROWS[:45], strange), LocalRun(tmp_path / "none"))


def test_a_batch_of_reviews_holds_their_pairs_and_hides_words_by_its_generator_alone() -> None:
    config = configure(word_dropout=0.5)
    examples = InBatchPairs(labelled(config), config)
    assert examples.costs == [len(words) for words in examples.reviews.words]
    batch, again = (examples.collate(range(12), np.random.default_rng(1)) for _ in range(2))
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert (batch["lengths"] < torch.tensor(examples.costs[:12])).any(), "no word was hidden"
    assert not bool((batch["left"] == batch["right"]).any()) and int(batch["right"].max()) < 12


def test_a_made_pair_costs_both_reviews_padded_and_is_collated_side_by_side() -> None:
    config = configure(pairs="made", pair_count=20, word_dropout=0.0)
    examples = MadePairs(labelled(config), config)
    lengths = [len(words) for words in examples.reviews.words]
    assert examples.costs == [2 * max(lengths[left], lengths[right]) for left, right in examples.pairs]
    batch = examples.collate([3, 5], np.random.default_rng(1))
    rows = [examples.pairs[3][0], examples.pairs[5][0], examples.pairs[3][1], examples.pairs[5][1]]
    assert batch["lengths"].tolist() == [lengths[i] for i in rows]
    assert batch["left"].tolist() == [0, 1] and batch["right"].tolist() == [2, 3]
