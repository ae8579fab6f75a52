"""Trains the Siamese network and writes everything that serving needs to the artifact."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from recipekit.backends.torch import device
from recipekit.metrics import accuracy, macro_f1
from recipekit.packing import run_packed
from recipekit.predictor import write_artifact_header
from recipekit.run import Data, Run
from recipekit.spec import Row
from recipekit.training.batching import TokenBatches
from recipekit.training.loop import Batch, Loop
from recipekit.training.optim import Cosine, Group, Linear, Monitor, ReduceOnPlateau, Schedule, adamw
from recipekit.training.seeding import seed_everything
from recipes.siamese_sentiment.card import write_card
from recipes.siamese_sentiment.data import Reviews, Tokenizer, Words, make_tokenizer, partners
from recipes.siamese_sentiment.model import SiameseSentiment, losses
from recipes.siamese_sentiment.predict import LABELS, TOKENIZER, WEIGHTS, Index, SentimentPredictor
from recipes.siamese_sentiment.spec import SAME, SPEC, Config, balanced_pairs

EVALUATION_TOKENS = 16_384
"""Padded tokens of a batch when reviews are only read: without gradients twice a training batch fits."""


def fit(config: Config, data: Data, run: Run) -> None:
    """Train on reviews and pairs of them, keep the weights of the best mean of macro F1 and pair accuracy in validation.

    Loss: contrastive (Hadsell et al. 2006) over pairs + cross-entropy over the classes of single reviews.
    """
    data.check(SPEC)
    seed_everything(config.seed)
    labels = sorted({str(row["label"]) for row in data.train})
    tokenizer = make_tokenizer(config, [str(row["text"]) for row in data.train])
    train = _reviews(data.train, labels, tokenizer)
    validation = _reviews(data.validation, labels, tokenizer)
    model = _new_model(config, tokenizer, labels, train)
    predictor = SentimentPredictor(model, tokenizer, labels)
    examples = MadePairs(train, config) if config.pairs == "made" else InBatchPairs(train, config)
    loop = Loop(
        model=model,
        optimizer=adamw(_groups(model, config)),
        schedule=_schedule(config),
        batches=TokenBatches(examples.costs, config.tokens_per_batch, config.seed, config.batch_rows),
        collate=examples.collate,
        loss=lambda batch: losses(model, batch, config),
        evaluate=lambda: _evaluate(predictor, validation),
        # The linear model finds labels long before the embeddings are apart: labels alone would choose such weights.
        best=Monitor("macro_f1", higher_is_better=True, beside=("pair_accuracy",)),
        epochs=config.epochs,
        min_steps=config.min_steps,
        seed=config.seed,
        clip=config.clip,
        average=config.average,
        patience=config.patience,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        precision=config.precision,
        threads=config.threads,
    )
    loop.run(run)
    save(config, predictor, data.train, run.artifact)
    write_card(run.artifact, config, labels, loop, len(data.train))


def _reviews(rows: Sequence[Row], labels: Sequence[str], tokenizer: Tokenizer) -> Reviews:
    """The rows whose label is in `labels`: a validation row of another label cannot be predicted."""
    known = [row for row in rows if str(row["label"]) in labels]
    return Reviews([str(row["text"]) for row in known], [labels.index(str(row["label"])) for row in known], tokenizer)


def _new_model(config: Config, tokenizer: Tokenizer, labels: Sequence[str], train: Reviews) -> SiameseSentiment:
    """An untrained model on this process's device, with the statistics of the training rows in its buffers."""
    model = SiameseSentiment(config, tokenizer.rows, len(labels)).to(device())
    model.favour(torch.bincount(torch.tensor(train.labels)).float(), config.rare_weight, config.logit_adjustment)
    if model.wide is not None:
        model.wide.weigh(train.tensors(range(len(train)))["features"], len(train))
    return model


@dataclass
class InBatchPairs:
    """Each review once an epoch; pairs are made among the reviews of a batch, so that each is encoded once."""

    reviews: Reviews
    config: Config

    @property
    def costs(self) -> list[int]:
        """Words of each review."""
        return [len(words) for words in self.reviews.words]

    def collate(self, rows: Sequence[int], rng: np.random.Generator) -> Batch:
        """Tensors of the reviews, and `left` and `right` (pairs,): the places in the batch of each pair's reviews."""
        batch = self.reviews.tensors(rows, rng, self.config.word_dropout)
        batch["left"], batch["right"] = partners(batch["labels"].tolist(), rng)
        return batch


class MadePairs:
    """A fixed list of balanced pairs; an example is a pair, and both its reviews are classified too."""

    def __init__(self, reviews: Reviews, config: Config) -> None:
        self.reviews = reviews
        self.config = config
        self.pairs = balanced_pairs([str(label) for label in reviews.labels], config.pair_count, config.seed)

    @property
    def costs(self) -> list[int]:
        """Both reviews of a pair are padded to the longer one."""
        return [2 * max(len(self.reviews.words[i]) for i in pair) for pair in self.pairs]

    def collate(self, rows: Sequence[int], rng: np.random.Generator) -> Batch:
        """Tensors as InBatchPairs.collate returns them; `rows` are numbers of pairs."""
        left, right = zip(*(self.pairs[i] for i in rows), strict=True)
        batch = self.reviews.tensors([*left, *right], rng, self.config.word_dropout)
        batch["left"] = torch.arange(len(left))
        batch["right"] = torch.arange(len(left), 2 * len(left))
        return batch


def save(config: Config, predictor: SentimentPredictor, rows: Sequence[Row], folder: Path) -> None:
    """Weights, tokenizer, labels and the index of the training reviews."""
    weights = predictor.run.model.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
    predictor.tokenizer.save(folder / TOKENIZER)
    (folder / LABELS).write_text(json.dumps(predictor.labels, ensure_ascii=False))
    read = _read(predictor, [predictor.tokenizer.cut(str(row["text"])) for row in rows])
    Index(torch.stack([embedding for _, embedding in read]), [dict(row) for row in rows]).save(folder)
    write_artifact_header(folder, SPEC, config)


def _evaluate(predictor: SentimentPredictor, reviews: Reviews) -> dict[str, float]:
    """Metrics of single reviews, `pair_accuracy` of balanced pairs, and the single reviews' cross-entropy as `loss`."""
    probabilities, embeddings = map(torch.stack, zip(*_read(predictor, reviews.words), strict=True))
    truth = torch.tensor(reviews.labels)
    names = [str(label) for label in reviews.labels]
    predicted = [str(label) for label in probabilities.argmax(dim=1).tolist()]
    pairs = torch.tensor(balanced_pairs(names, len(names), seed=0), dtype=torch.int64).reshape(-1, 2).T
    alike = (embeddings[pairs[0]] * embeddings[pairs[1]]).sum(dim=1) > SAME
    return {
        "loss": float(-probabilities[torch.arange(len(truth)), truth].clamp_min(1e-12).log().mean()),
        "macro_f1": macro_f1(names, predicted),
        "accuracy": accuracy(names, predicted),
        "pair_accuracy": float((alike == (truth[pairs[0]] == truth[pairs[1]])).float().mean())
        if len(pairs[0])
        else 0.0,
    }


def _read(predictor: SentimentPredictor, reviews: Sequence[Words]) -> list[tuple[Tensor, Tensor]]:
    """(probabilities, embedding) of each review, in their order."""
    return run_packed(predictor.read, reviews, [len(review) for review in reviews], EVALUATION_TOKENS)


def _groups(model: SiameseSentiment, config: Config) -> list[Group]:
    """The word table has a learning rate of its own: each of its rows gets far fewer updates than other weights."""
    table = {p for encoder in model.encoders for p in encoder.table.parameters()}
    wide = set(model.wide.parameters()) if model.wide is not None else set()
    others = [p for p in model.parameters() if p not in table | wide]
    return [
        Group(others, config.learning_rate, config.weight_decay),
        Group(list(table), config.learning_rate * config.table_rate, 0.0),
        Group(list(wide), config.learning_rate * config.wide_rate, config.wide_decay),
    ]


def _schedule(config: Config) -> Schedule:
    kinds = {"plateau": ReduceOnPlateau, "cosine": Cosine, "linear": Linear}
    return kinds[config.schedule](warm_up=config.warm_up)
