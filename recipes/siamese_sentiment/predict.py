"""Loads the artifact and predicts: sentiment, embedding, similar reviews."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import override

from recipekit.backends.torch import TorchBackend
from recipekit.predictor import Item, Neighbour, Predictor, Searcher
from recipekit.spec import Prediction, Row
from recipes.siamese_sentiment.data import Tokenizer, Words, load_tokenizer
from recipes.siamese_sentiment.model import SiameseSentiment
from recipes.siamese_sentiment.spec import Config

WEIGHTS, TOKENIZER, LABELS = "model.safetensors", "tokenizer.json", "labels.json"
INDEX, INDEX_ROWS = "index.safetensors", "index.json"


class Index:
    """The training reviews by their embeddings; a search compares the query with every one of them."""

    def __init__(self, embeddings: Tensor, rows: Sequence[Row]) -> None:
        self.embeddings = embeddings
        self.rows = list(rows)

    def nearest(self, embedding: Sequence[float], limit: int, label: str | None) -> list[Neighbour]:
        """The `limit` reviews of highest cosine similarity, of one label if one is given."""
        cosines = self.embeddings @ torch.tensor(embedding, dtype=torch.float32)
        order = torch.argsort(cosines, descending=True, stable=True).tolist()
        found = (i for i in order if label is None or self.rows[i]["label"] == label)
        return [
            Neighbour(min(1.0, max(-1.0, float(cosines[i]))), self.rows[i])
            for i, _ in zip(found, range(max(0, limit)), strict=False)
        ]

    def save(self, folder: Path) -> None:
        """Write the embeddings and the rows, in the same order."""
        save_file({"embeddings": self.embeddings.contiguous()}, folder / INDEX)
        (folder / INDEX_ROWS).write_text(json.dumps(self.rows, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> "Index":
        """The index of an artifact folder, in memory."""
        return cls(load_file(folder / INDEX)["embeddings"], json.loads((folder / INDEX_ROWS).read_text()))


class SentimentPredictor(Predictor, Searcher):
    """Predicts for one batch at a time with a model that torch runs."""

    def __init__(
        self, model: SiameseSentiment, tokenizer: Tokenizer, labels: Sequence[str], index: Index | None = None
    ) -> None:
        self.run = TorchBackend(model)
        self.backend, self.precision = self.run.name, self.run.precision
        self.tokenizer = tokenizer
        self.labels = list(labels)
        self.index = index

    @override
    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        reviews = [self.tokenizer.cut(str(row["text"])) for row in rows]
        return [Item(cost=len(review), payload=review) for review in reviews]

    @override
    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        predictions: list[Prediction] = []
        for probabilities, embedding in self.read([item.payload for item in items]):
            scores = dict(zip(self.labels, probabilities.tolist(), strict=True))
            label = max(scores, key=scores.__getitem__)
            predictions.append(
                {"label": label, "confidence": scores[label], "scores": scores, "embedding": embedding.tolist()}
            )
        return predictions

    def read(self, reviews: Sequence[Words]) -> list[tuple[Tensor, Tensor]]:
        """(probabilities (classes,), unit embedding (readers × review_size,)) of each review, on the CPU."""
        read = self.run(self.tokenizer.tensors(reviews))
        return list(zip(read.scores().cpu(), read.embedding.cpu(), strict=True))

    @override
    def similar(self, prediction: Prediction, limit: int, label: str | None = None) -> list[Neighbour]:
        if self.index is None:
            raise LookupError("this artifact has no index of reviews")
        return self.index.nearest(prediction["embedding"], limit, label)


def load(folder: Path) -> SentimentPredictor:
    """The predictor of an artifact folder."""
    config = Config.model_validate(json.loads((folder / "artifact.json").read_text())["config"])
    labels = json.loads((folder / LABELS).read_text())
    weights = load_file(folder / WEIGHTS)
    model = SiameseSentiment(config, table_rows=weights["encoders.0.table.weight"].shape[0], classes=len(labels))
    model.load_state_dict(weights)
    return SentimentPredictor(model, load_tokenizer(folder / TOKENIZER), labels, Index.load(folder))
