"""The Siamese network: one encoder for both reviews of a pair, a cosine layer between them, a classifier on each."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from recipes.siamese_sentiment.spec import SAME, Config


@dataclass(frozen=True)
class Read:
    """What the network makes of a batch of reviews."""

    embedding: Tensor
    """(rows, review_size), not yet of length 1."""
    logits: Tensor
    """(rows, classes)"""


class SiameseSentiment(nn.Module):
    """Words → (BiLSTM →) attention pooling → review embedding → classes. Padding reaches none of them.

    Attention as in Yang et al. 2016 with a linear score; `table_rows` is the vocabulary's or the n-gram table's size.
    """

    def __init__(self, config: Config, table_rows: int, classes: int) -> None:
        super().__init__()
        self.table: nn.Embedding | nn.EmbeddingBag
        if config.words == "vocabulary":
            self.table = nn.Embedding(table_rows, config.embedding_size, padding_idx=0)
            nn.init.xavier_uniform_(self.table.weight)
        else:
            self.table = nn.EmbeddingBag(table_rows, config.embedding_size, mode="mean", include_last_offset=False)
            nn.init.uniform_(self.table.weight, -0.5 / config.embedding_size, 0.5 / config.embedding_size)
        self.lstm: nn.LSTM | None = None
        width = config.embedding_size
        if config.context == "lstm":
            between = config.dropout if config.layers > 1 else 0.0
            self.lstm = nn.LSTM(
                width, config.hidden_size, config.layers, batch_first=True, bidirectional=True, dropout=between
            )
            width = 2 * config.hidden_size
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
        self.sharpness = nn.Parameter(torch.tensor(5.0))
        self.shift = nn.Parameter(torch.tensor(0.0))

    def forward(self, batch: dict[str, Tensor]) -> Read:
        embedding = self.project(self.dropout(self.norm(self._pooled(batch))))
        return Read(embedding, self.head(self.dropout(embedding)))

    def alike(self, left: Tensor, right: Tensor) -> Tensor:
        """How likely two embeddings are of one sentiment, in (0, 1): (pairs,). At cosine SAME it is one half."""
        cosine = cosine_similarity(left.float(), right.float())
        return torch.sigmoid(self.sharpness * (cosine - SAME) + self.shift)

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
        return pad_packed_sequence(self.lstm(packed)[0], batch_first=True)[0]


def contrastive(alike: Tensor, same: Tensor, margin: float) -> Tensor:
    """Hadsell et al. 2006 over d = 1 − alike: d² for pairs of one class, relu(margin − d)² for the others."""
    distance = 1 - alike
    return torch.where(same, distance**2, relu(margin - distance) ** 2).mean()


def losses(model: SiameseSentiment, batch: dict[str, Tensor], config: Config, prior: Tensor) -> dict[str, Tensor]:
    """`loss` and its two parts. `prior` (classes,): log share of each class in the training rows.

    Logit adjustment (Menon et al. 2021) adds tau × prior to the logits in training; without it, rare classes gain.
    """
    read = model(batch)
    logits = read.logits.float() + config.logit_adjustment * prior
    classes = cross_entropy(logits, batch["labels"], label_smoothing=config.label_smoothing)
    told = {"cross_entropy": classes}
    pairs = classes.new_zeros(())
    if len(batch["left"]):
        left, right = batch["left"], batch["right"]
        same = batch["labels"][left] == batch["labels"][right]
        pairs = contrastive(model.alike(read.embedding[left], read.embedding[right]), same, config.margin)
        told["contrastive"] = pairs
    told["loss"] = config.contrastive_weight * pairs + (1 - config.contrastive_weight) * classes
    return told


def unit(embedding: Tensor) -> Tensor:
    """Embeddings of length 1."""
    return normalize(embedding.float(), dim=-1)
