"""The Siamese network: the same readers for both reviews of a pair, their cosine, and a classification of each."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recipes.siamese_sentiment.spec import SAME, Config


@dataclass(frozen=True)
class Read:
    """The network's output for a batch of reviews."""

    embedding: Tensor
    """(rows, readers × review_size), of length 1: the cosine of two reviews is the mean of their readers' cosines."""
    logits: tuple[Tensor, ...]
    """(rows, classes) of each reader; the linear model, if there is one, is the last."""
    linear: bool
    adjustment: Tensor
    """(classes,): added to the log-probabilities, it favours rare classes."""

    def scores(self) -> Tensor:
        """Probabilities (rows, classes) from mean log-probabilities; the linear model weighs as much as all readers."""
        each = [logits.log_softmax(dim=1) for logits in self.logits]
        deep = torch.stack(each[:-1] if self.linear else each).mean(dim=0)
        both = (deep + each[-1]) / 2 if self.linear else deep
        return (both + self.adjustment).softmax(dim=1)


class Wide(nn.Module):
    """Multinomial logistic regression over hashed n-grams and pairs of words, weighted by TF-IDF (sublinear, length 1).

    Wide & deep (Cheng et al. 2016), but each part has a loss of its own: they err differently, so their mean errs less.
    """

    rarity: Tensor

    def __init__(self, buckets: int, classes: int) -> None:
        super().__init__()
        self.votes = nn.EmbeddingBag(buckets, classes, mode="sum")
        nn.init.zeros_(self.votes.weight)
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("rarity", torch.zeros(buckets))

    def weigh(self, features: Tensor, rows: int) -> None:
        """Set each feature's inverse document frequency; `features` (all,) holds each training row's distinct ones.

        A feature of a single row gets 0: it is noise.
        """
        number = torch.bincount(features, minlength=len(self.rarity)).float()
        self.rarity.copy_(torch.where(number > 1, torch.log((1 + rows) / (1 + number)) + 1, 0.0))

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """(rows, classes)"""
        features, starts = batch["features"], batch["feature_starts"]
        weight = (1 + batch["feature_counts"].float().log()) * self.rarity[features]
        row = torch.zeros_like(features)
        row[starts[1:]] = 1
        row = row.cumsum(dim=0)
        square = torch.zeros(len(starts), device=weight.device).index_add_(0, row, weight**2)
        weight = weight / square.sqrt().clamp_min(1e-6)[row]
        return self.votes(features, starts, per_sample_weights=weight).float() + self.bias


class Encoder(nn.Module):
    """Words → (BiLSTM →) attention pooling → review embedding → classes. Padding changes no output.

    Attention as in Yang et al. 2016 with a linear score; `table_rows` is the vocabulary's or the n-gram table's size.
    """

    def __init__(self, config: Config, table_rows: int, classes: int) -> None:
        super().__init__()
        self.table: nn.Embedding | nn.EmbeddingBag
        if config.words == "vocabulary":
            self.table = nn.Embedding(table_rows, config.embedding_size, padding_idx=0)
            nn.init.xavier_uniform_(self.table.weight)
        else:
            self.table = nn.EmbeddingBag(table_rows, config.embedding_size, mode="mean")
            nn.init.uniform_(self.table.weight, -0.5 / config.embedding_size, 0.5 / config.embedding_size)
        self.lstm: nn.LSTM | None = None
        width = config.embedding_size
        if config.context == "lstm":
            self.lstm = nn.LSTM(width, config.hidden_size, batch_first=True, bidirectional=True)
            width = 2 * config.hidden_size
        # A layer each: the dropout inside of cuDNN's stacked LSTM draws from a state that no checkpoint can keep.
        self.above = nn.ModuleList(
            nn.LSTM(width, config.hidden_size, batch_first=True, bidirectional=True)
            for _ in range(0 if self.lstm is None else config.layers - 1)
        )
        self.attention = nn.Linear(width, 1)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, config.review_size)
        self.dropout = nn.Dropout(config.dropout)
        sizes = (config.review_size, *config.head_sizes)
        hidden = [
            layer
            for inner, outer in pairwise(sizes)
            for layer in (nn.Linear(inner, outer), nn.ReLU(), nn.Dropout(config.dropout))
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(sizes[-1], classes))

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Embedding (rows, review_size) of length 1, and logits (rows, classes)."""
        embedding = self.project(self.dropout(self.norm(self._pooled(batch))))
        return normalize(embedding.float(), dim=1), self.head(self.dropout(embedding)).float()

    def _pooled(self, batch: dict[str, Tensor]) -> Tensor:
        """(rows, width): the words' mean, weighted by attention over what is no padding."""
        words = self._word_vectors(batch)
        there = torch.arange(words.shape[1], device=words.device) < batch["lengths"][:, None]
        scores = self.attention(words).squeeze(-1).float().masked_fill(~there, float("-inf"))
        return torch.einsum("rw,rwd->rd", scores.softmax(dim=1), words.float())

    def _word_vectors(self, batch: dict[str, Tensor]) -> Tensor:
        """(rows, longest, width)"""
        if isinstance(self.table, nn.EmbeddingBag):
            distinct = self.table(batch["ngrams"], batch["offsets"])
            vectors = nn.functional.embedding(batch["words"], distinct)
        else:
            vectors = self.table(batch["words"])
        vectors = self.dropout(vectors)
        if self.lstm is None:
            return vectors
        packed = pack_padded_sequence(vectors, batch["lengths"].cpu(), batch_first=True, enforce_sorted=False)
        read = self.lstm(packed)[0]
        for layer in self.above:
            read = layer(read._replace(data=self.dropout(read.data)))[0]
        return pad_packed_sequence(read, batch_first=True)[0]


class SiameseSentiment(nn.Module):
    """One set of readers for both reviews of a pair, a cosine layer between them, a classification of each."""

    adjustment: Tensor
    class_weight: Tensor

    def __init__(self, config: Config, table_rows: int, classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(Encoder(config, table_rows, classes) for _ in range(config.readers))
        self.wide = Wide(config.wide_buckets, classes) if config.wide and config.words == "ngrams" else None
        self.sharpness = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.tensor(0.0))
        self.register_buffer("adjustment", torch.zeros(classes))
        self.register_buffer("class_weight", torch.ones(classes))

    def forward(self, batch: dict[str, Tensor]) -> Read:
        """What Tokenizer.tensors() makes of some reviews, read by every reader and the linear model."""
        read = [encoder(batch) for encoder in self.encoders]
        embedding = torch.cat([embedding for embedding, _ in read], dim=1) / len(read) ** 0.5
        logits = [logits for _, logits in read]
        if self.wide is not None:
            logits.append(self.wide(batch))
        return Read(embedding, tuple(logits), self.wide is not None, self.adjustment)

    def alike(self, left: Tensor, right: Tensor) -> Tensor:
        """How likely two embeddings are of one sentiment, in (0, 1): (pairs,). At cosine SAME it is one half."""
        cosine = (left * right).sum(dim=1)
        return torch.sigmoid(self.sharpness * (cosine - SAME) + self.shift)

    def favour(self, counts: Tensor, in_loss: float, in_answers: float) -> None:
        """Set how far rare classes are favoured. `counts` (classes,): training rows of each.

        In the loss a class weighs 1 / share ** in_loss, on average 1 a row. In answers `in_answers` of its log prior is
        taken off its logits (post-hoc logit adjustment, Menon et al. 2021).
        """
        share = (counts / counts.sum()).clamp_min(1e-9)
        weight = share**-in_loss
        self.class_weight.copy_(weight / (weight * share).sum())
        self.adjustment.copy_(-in_answers * share.log())


def contrastive(alike: Tensor, same: Tensor, margin: float) -> Tensor:
    """Hadsell et al. 2006 over d = 1 − alike: d² for pairs of one class, relu(margin − d)² for the others."""
    distance = 1 - alike
    return torch.where(same, distance**2, relu(margin - distance) ** 2).mean()


def losses(model: SiameseSentiment, batch: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """`loss` and its parts: contrastive over pairs, cross-entropy of single reviews (each reader has its own)."""
    read = model(batch)
    each = [cross_entropy(logits, batch["labels"], model.class_weight) for logits in read.logits]
    parts = {"cross_entropy": torch.stack(each).sum()}
    pairs = parts["cross_entropy"].new_zeros(())
    if len(batch["left"]):
        left, right = batch["left"], batch["right"]
        same = batch["labels"][left] == batch["labels"][right]
        pairs = contrastive(model.alike(read.embedding[left], read.embedding[right]), same, config.margin)
        parts["contrastive"] = pairs
    parts["loss"] = config.contrastive_weight * pairs + (1 - config.contrastive_weight) * parts["cross_entropy"]
    return parts
