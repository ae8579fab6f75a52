"""Reviews as tensors: two tokenizers, labelled reviews, and the pairs among them."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from recipes.siamese_sentiment.spec import Config
from recipes.siamese_sentiment.text import bucket, ngrams, words

Words = tuple[str, ...]
"""The words of one review, at least one."""

UNKNOWN = "<unknown>"
NOTHING = "<nothing>"
"""The only word of an empty review."""
CACHED_WORDS = 1 << 17
"""Words whose n-grams a tokenizer keeps; reviews repeat most of their words."""
LONGEST_CACHED = 32
"""Characters of a word that is kept: with the default n-grams, CACHED_WORDS of them take at most 300 MB."""


class Tokenizer:
    """Cuts reviews into words and turns batches of them into tensors. Saved as JSON."""

    def __init__(self, longest_review: int) -> None:
        self.longest_review = longest_review

    def cut(self, text: str) -> Words:
        """The first `longest_review` words of a text; NOTHING for a text without any."""
        return tuple(words(text, self.longest_review)) or (NOTHING,)

    def tensors(self, reviews: Sequence[Words], whole: Sequence[Words] | None = None) -> dict[str, Tensor]:
        """What Encoder.forward takes: `words` (rows, longest) padded with 0, `lengths` (rows,), and its own.

        `whole`: the same reviews where some words of `reviews` are hidden; the linear model reads all of them.
        """
        raise NotImplementedError

    @property
    def rows(self) -> int:
        """Rows of the word table that its numbers need."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """Everything that load_tokenizer() needs: the kind under `words`, and the constructor's arguments."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(self.to_json(), ensure_ascii=False))


class Vocabulary(Tokenizer):
    """A closed list of the training set's most frequent words; 0 is padding, 1 any other word."""

    def __init__(self, known: Sequence[str], longest_review: int) -> None:
        super().__init__(longest_review)
        self.known = list(known)
        self._id = {word: i for i, word in enumerate([UNKNOWN, *known], start=1)}

    @classmethod
    def of(cls, reviews: Iterable[Words], config: Config) -> "Vocabulary":
        """The most frequent words of the reviews, sorted by frequency and then by name."""
        counts = Counter(word for review in reviews for word in review)
        order = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(order[: config.vocabulary_size - 1], config.longest_review)

    @override
    def tensors(self, reviews: Sequence[Words], whole: Sequence[Words] | None = None) -> dict[str, Tensor]:
        return _padded([[self._id.get(word, 1) for word in review] for review in reviews])

    @property
    @override
    def rows(self) -> int:
        return len(self.known) + 2

    @override
    def to_json(self) -> dict[str, Any]:
        return {"words": "vocabulary", "known": self.known, "longest_review": self.longest_review}


class HashedNgrams(Tokenizer):
    """Each word is the bag of its hashed character n-grams (Bojanowski et al. 2017): no word is unknown."""

    def __init__(self, buckets: int, shortest: int, longest: int, longest_review: int, wide_buckets: int) -> None:
        super().__init__(longest_review)
        self.buckets, self.shortest, self.longest, self.wide_buckets = buckets, shortest, longest, wide_buckets
        self.rows_of, self.features_of = _cached(self._rows_of), _cached(self._features_of)

    @classmethod
    def of(cls, config: Config) -> "HashedNgrams":
        """The tokenizer of a config; it learns nothing from data."""
        return cls(
            config.buckets,
            config.shortest_ngram,
            config.longest_ngram,
            config.longest_review,
            config.wide_buckets if config.wide else 0,
        )

    @override
    def cut(self, text: str) -> Words:
        # Fills the caches here, in the thread that prepares, so that the model's thread need not.
        review = super().cut(text)
        for word in review:
            self.rows_of(word)
            if self.wide_buckets:
                self.features_of(word)
        return review

    @override
    def tensors(self, reviews: Sequence[Words], whole: Sequence[Words] | None = None) -> dict[str, Tensor]:
        """Also `ngrams` (all,) and `offsets` (distinct words + 1,): word 0 is padding and has none."""
        place: dict[str, int] = {}
        padded = _padded([[place.setdefault(word, len(place) + 1) for word in review] for review in reviews])
        rows = [self.rows_of(word) for word in place]
        offsets = np.cumsum([0, 0, *(len(r) for r in rows)])[:-1]
        padded["ngrams"] = torch.from_numpy(np.concatenate(rows))
        padded["offsets"] = torch.from_numpy(offsets)
        return {**padded, **self._wide(whole or reviews)} if self.wide_buckets else padded

    def _wide(self, reviews: Sequence[Words]) -> dict[str, Tensor]:
        """What Wide.forward takes: each review's distinct `features` end to end, their counts, where each begins."""
        found = [np.unique(self._features(review), return_counts=True) for review in reviews]
        starts = np.cumsum([0, *(len(features) for features, _ in found)])[:-1]
        return {
            "features": torch.from_numpy(np.concatenate([features for features, _ in found])),
            "feature_counts": torch.from_numpy(np.concatenate([counts for _, counts in found])),
            "feature_starts": torch.from_numpy(starts),
        }

    def _features(self, review: Words) -> NDArray[np.int64]:
        pairs = [bucket(f"{left} {right}", self.wide_buckets) for left, right in pairwise(review)]
        return np.concatenate([np.array(pairs, dtype=np.int64), *(self.features_of(word) for word in review)])

    @property
    @override
    def rows(self) -> int:
        return self.buckets

    @override
    def to_json(self) -> dict[str, Any]:
        return {
            "words": "ngrams",
            "buckets": self.buckets,
            "shortest": self.shortest,
            "longest": self.longest,
            "longest_review": self.longest_review,
            "wide_buckets": self.wide_buckets,
        }

    def _features_of(self, word: str) -> NDArray[np.int64]:
        found = [bucket(ngram, self.wide_buckets) for ngram in ngrams(word, self.shortest, self.longest)]
        return np.array(found, dtype=np.int64)

    def _rows_of(self, word: str) -> NDArray[np.int64]:
        found = {bucket(ngram, self.buckets) for ngram in ngrams(word, self.shortest, self.longest)}
        return np.array(sorted(found), dtype=np.int64)


def _cached(numbers_of: Callable[[str], NDArray[np.int64]]) -> Callable[[str], NDArray[np.int64]]:
    kept = lru_cache(maxsize=CACHED_WORDS)(numbers_of)
    return lambda word: kept(word) if len(word) <= LONGEST_CACHED else numbers_of(word)


def make_tokenizer(config: Config, texts: Sequence[str]) -> Tokenizer:
    """The tokenizer that the config asks for; a vocabulary is made from the training texts."""
    if config.words == "ngrams":
        return HashedNgrams.of(config)
    plain = Tokenizer(config.longest_review)
    return Vocabulary.of((plain.cut(text) for text in texts), config)


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer that Tokenizer.save() wrote."""
    values = json.loads(path.read_text())
    kind = {"vocabulary": Vocabulary, "ngrams": HashedNgrams}[values.pop("words")]
    return kind(**values)


class Reviews:
    """Labelled reviews, cut into words."""

    def __init__(self, texts: Sequence[str], labels: Sequence[int], tokenizer: Tokenizer) -> None:
        self.words = [tokenizer.cut(text) for text in texts]
        self.labels = list(labels)
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self.words)

    def tensors(
        self, rows: Sequence[int], rng: np.random.Generator | None = None, hide: float = 0.0
    ) -> dict[str, Tensor]:
        """Tensors of the given reviews; with `hide`, that share of each review's words is left out (never all)."""
        whole = [self.words[i] for i in rows]
        reviews = whole if rng is None or not hide else [_some(review, rng, hide) for review in whole]
        return {**self.tokenizer.tensors(reviews, whole), "labels": torch.tensor([self.labels[i] for i in rows])}


def partners(labels: Sequence[int], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """For each review of a batch one other, alternately of its own class and of another: (left, right), each (pairs,)."""
    of = np.asarray(labels)
    left: list[int] = []
    right: list[int] = []
    for i in rng.permutation(len(of)):
        alike = len(left) % 2 == 0
        choice = np.flatnonzero((of == of[i]) == alike)
        choice = choice[choice != i]
        if len(choice):
            left.append(int(i))
            right.append(int(rng.choice(choice)))
    return torch.tensor(left, dtype=torch.int64), torch.tensor(right, dtype=torch.int64)


def _some(review: Words, rng: np.random.Generator, hide: float) -> Words:
    kept = rng.random(len(review)) >= hide
    return tuple(word for word, keep in zip(review, kept, strict=True) if keep) or review


def _padded(ids: Sequence[Sequence[int]]) -> dict[str, Tensor]:
    lengths = [len(row) for row in ids]
    padded: NDArray[np.int64] = np.zeros((len(ids), max(lengths)), dtype=np.int64)
    for row, values in enumerate(ids):
        padded[row, : len(values)] = values
    return {"words": torch.from_numpy(padded), "lengths": torch.tensor(lengths)}
