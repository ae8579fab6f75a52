"""siamese_sentiment's rows, predictions, config, metrics, gate and baseline."""

import math
import random
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from recipekit import spec
from recipekit.metrics import measure_classes
from recipekit.spec import GateRule, Measured, Metric, Prediction, Row, Spec

SAME = 0.5
"""Two reviews whose embeddings have a higher cosine than this count as of one sentiment."""


class Config(spec.Config):
    """The complete training configuration."""

    words: Literal["ngrams", "vocabulary"] = Field(
        default="ngrams",
        description="ngrams: a word is the bag of its hashed character n-grams (fastText), so unseen words have a "
        "meaning; vocabulary: a closed list of training words",
    )
    vocabulary_size: int = Field(
        default=20_000, ge=2, le=1_000_000, description="words kept, the unknown word counted (vocabulary)"
    )
    buckets: int = Field(default=2**17, ge=16, le=2**24, description="rows of the n-gram table (ngrams)")
    shortest_ngram: int = Field(default=2, ge=1, le=32, description="characters (ngrams)")
    longest_ngram: int = Field(default=5, ge=1, le=32, description="characters (ngrams)")
    longest_review: int = Field(default=256, ge=1, le=8192, description="words; what follows is cut off")
    embedding_size: int = Field(default=64, ge=1, le=4096, description="of a word")
    context: Literal["lstm", "none"] = Field(
        default="lstm", description="lstm: a word's vector depends on the words around it"
    )
    hidden_size: int = Field(default=64, ge=1, le=4096, description="of each direction of the LSTM")
    layers: int = Field(default=1, ge=1, le=16, description="of the LSTM")
    review_size: int = Field(default=128, ge=1, le=4096, description="of a review's embedding")
    head_sizes: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        default=(), max_length=8, description="hidden layers between embedding and classes"
    )
    readers: int = Field(
        default=2,
        ge=1,
        le=16,
        description="encoders that differ by their initial weights; their mean errs less than each",
    )
    wide: bool = Field(
        default=True,
        description="a linear model over the n-grams and word pairs of a review reads beside the network (ngrams)",
    )
    wide_buckets: int = Field(default=2**20, ge=16, le=2**24, description="rows of its table")
    wide_rate: float = Field(default=20.0, gt=0, le=10_000, description="its learning rate, times learning_rate")
    wide_decay: float = Field(default=0.0, ge=0, le=10, description="its weight decay")
    dropout: float = Field(default=0.5, ge=0, lt=1)
    word_dropout: float = Field(default=0.3, ge=0, lt=1, description="share of words hidden in training")
    pairs: Literal["in_batch", "made"] = Field(
        default="in_batch",
        description="in_batch: each review of a batch is paired with one other, half of them of its class; made: a "
        "fixed list of balanced pairs is the training set",
    )
    pair_count: int = Field(default=736, ge=2, le=1_000_000, description="pairs to make (made)")
    contrastive_weight: float = Field(default=0.2, ge=0, le=1, description="cross-entropy has the rest")
    margin: float = Field(default=1.0, gt=0, le=10)
    logit_adjustment: float = Field(
        default=0.5,
        ge=0,
        le=10,
        description="how far answers favour rare classes (0: not, 1: as if all classes were equally frequent)",
    )
    rare_weight: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="power of 1 / share by which a class weighs in the loss (0: all rows alike)",
    )
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    table_rate: float = Field(
        default=1.0, gt=0, le=10_000, description="learning rate of the word table, times learning_rate"
    )
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    schedule: Literal["plateau", "cosine", "linear"] = "cosine"
    warm_up: float = Field(default=0.05, ge=0, lt=1, description="share of all steps")
    epochs: int = Field(default=8, ge=1, le=100_000)
    min_steps: int = Field(
        default=240,
        ge=0,
        le=1_000_000,
        description="steps at least, by more epochs: with fewer the readers of a small file stay as good as untrained",
    )
    patience: int | None = Field(
        default=None, ge=1, le=100_000, description="evaluations without a better one; None never stops"
    )
    batch_rows: int = Field(default=128, ge=1, le=65_536, description="reviews (in_batch) or pairs (made)")
    tokens_per_batch: int = Field(default=4096, ge=1, le=2**20, description="padded words of a batch")
    clip: float = Field(default=1.0, gt=0, le=1_000_000)
    average: float = Field(default=0.99, ge=0, lt=1, description="decay of the averaged weights; 0 for none")
    evaluate_every: int | None = Field(default=None, ge=1, le=1_000_000, description="steps; None after each epoch")
    checkpoint_every: int = Field(default=200, ge=1, le=1_000_000, description="steps")
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int = Field(default=1, ge=0, le=1024, description="of torch on a CPU; 0 for as many as it has")


PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "reference": {
        "words": "vocabulary",
        "readers": 1,
        "wide": False,
        "embedding_size": 128,
        "hidden_size": 256,
        "layers": 2,
        "review_size": 256,
        "head_sizes": (256, 32),
        "dropout": 0.3,
        "word_dropout": 0.0,
        "pairs": "made",
        "pair_count": 736,
        "contrastive_weight": 0.5,
        "logit_adjustment": 0.0,
        "learning_rate": 1e-3,
        "schedule": "plateau",
        "warm_up": 0.0,
        "epochs": 20,
        "min_steps": 0,
        "patience": 5,
        "batch_rows": 16,
        "average": 0.0,
        "threads": 0,
    },
    "toy": {
        "readers": 1,
        "wide": False,
        "context": "none",
        "buckets": 2**14,
        "embedding_size": 32,
        "review_size": 32,
        "dropout": 0.1,
        "word_dropout": 0.1,
        "contrastive_weight": 0.5,
        "logit_adjustment": 0.0,
        "learning_rate": 5e-3,
        "epochs": 5,
        "min_steps": 0,
        "batch_rows": 32,
        "average": 0.0,
        "checkpoint_every": 10,
        "precision": "fp32",
    },
}


class Review(BaseModel):
    """A labelled review. Other columns stay with it and come back in the answers of Similar."""

    model_config = ConfigDict(extra="allow")

    text: str = Field(min_length=1)
    label: str = Field(min_length=1, description="any two or more labels; they are found in the data")
    movie: str | None = Field(default=None, description="what the review is about")


class Input(BaseModel):
    """A review to predict for."""

    text: str


class Sentiment(BaseModel):
    """The prediction for one review."""

    label: str
    confidence: float = Field(ge=0, le=1, description="probability of the label")
    scores: dict[str, float] = Field(description="probability of each label")
    embedding: list[float] = Field(description="of length 1; reviews of one sentiment have a high cosine")


def measure(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Measured:
    """Metrics of single reviews, and `pair_accuracy`: share of pairs whose cosine decides rightly on equal labels."""
    measured = measure_classes(rows, predictions)
    labels = [str(row["label"]) for row in rows]
    same = balanced_pairs(labels, count=len(rows), seed=0)
    hits = sum(
        (_cosine(predictions[left]["embedding"], predictions[right]["embedding"]) > SAME)
        == (labels[left] == labels[right])
        for left, right in same
    )
    metrics = {**measured.metrics, "pair_accuracy": hits / len(same) if same else 0.0}
    return Measured(metrics=metrics, tables=measured.tables)


def balanced_pairs(labels: Sequence[str], count: int, seed: int) -> list[tuple[int, int]]:
    """`count` seeded pairs of different reviews, alternately of one label and of two, as far as labels allow."""
    rng = random.Random(seed)
    of: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        of.setdefault(label, []).append(i)
    can_same = [i for i, label in enumerate(labels) if len(of[label]) > 1]
    pairs: list[tuple[int, int]] = []
    for number in range(count):
        alike = number % 2 == 0
        if (alike and not can_same) or (not alike and len(of) < 2):
            continue
        left = rng.choice(can_same) if alike else rng.randrange(len(labels))
        while True:
            right = rng.choice(of[labels[left]]) if alike else rng.randrange(len(labels))
            if right != left and (labels[right] == labels[left]) == alike:
                break
        pairs.append((left, right))
    return pairs


def baseline(train: Sequence[Row], test: Sequence[Row]) -> list[Prediction]:
    """TF-IDF of character n-grams and logistic regression; its embedding of a review is its scores, of length 1."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000),
    )
    model.fit([str(row["text"]) for row in train], [str(row["label"]) for row in train])
    labels = [str(label) for label in model.classes_]
    predictions: list[Prediction] = []
    for probabilities in model.predict_proba([str(row["text"]) for row in test]).tolist():
        scores = dict(zip(labels, probabilities, strict=True))
        label = max(scores, key=scores.__getitem__)
        size = math.hypot(*probabilities)
        embedding = [p / size for p in probabilities]
        predictions.append({"label": label, "confidence": scores[label], "scores": scores, "embedding": embedding})
    return predictions


def _cosine(left: Sequence[float], right: Sequence[float]) -> float:
    """Of vectors of length 1."""
    return (
        math.sumprod(left, right) if hasattr(math, "sumprod") else sum(a * b for a, b in zip(left, right, strict=True))
    )


SPEC = Spec(
    name="siamese_sentiment",
    description="Sentiment of Telugu reviews: a Siamese encoder with a classifier on top",
    config=Config,
    presets=PRESETS,
    row=Review,
    input=Input,
    prediction=Sentiment,
    tasks={
        "classify": ("macro_f1", "accuracy"),
        "embed": ("pair_accuracy",),
        "similar": ("pair_accuracy",),
        "rank": ("macro_f1",),
    },
    identity=("text",),
    label="label",
    metrics=(
        Metric("macro_f1", "mean F1 of the classes of single reviews: a rare class counts like the others"),
        Metric("accuracy", "share of single reviews whose label was found"),
        Metric(
            "pair_accuracy",
            "share of balanced pairs whose cosine decides correctly whether the labels are equal",
        ),
    ),
    gate=(
        GateRule("accuracy", at_least=0.6, over_baseline=-0.02, over_champion=-0.02),
        GateRule("macro_f1", over_baseline=-0.01, over_champion=0.0),
        GateRule("pair_accuracy", at_least=0.55, over_champion=-0.05),
    ),
    measure=measure,
    baseline=baseline,
    baseline_name="TF-IDF of character n-grams + logistic regression",
    tolerance=1e-3,
)
