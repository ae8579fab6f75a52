"""Loads the artifact and answers: sentiment, embedding, similar reviews."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from recipekit.predictor import Item, Neighbour
from recipekit.spec import Prediction, Row
from recipes.siamese_sentiment.data import Review, Tokenizer, load_tokenizer
from recipes.siamese_sentiment.model import SiameseSentiment
from recipes.siamese_sentiment.spec import Config

WEIGHTS, TOKENIZER, LABELS = "model.safetensors", "tokenizer.json", "labels.json"
INDEX, INDEX_ROWS = "index.safetensors", "index.json"


class Index:
    """The training reviews by their embeddings, searched exactly."""

    def __init__(self, embeddings: Tensor, rows: Sequence[Row]) -> None:
        self.embeddings = embeddings
        self.rows = list(rows)

    def nearest(self, embedding: Sequence[float], limit: int, label: str | None) -> list[Neighbour]:
        """The `limit` reviews of highest cosine, of one label if one is given."""
        cosines = self.embeddings @ torch.tensor(embedding, dtype=torch.float32)
        order = torch.argsort(cosines, descending=True, stable=True).tolist()
        found = (i for i in order if label is None or self.rows[i]["label"] == label)
        return [
            Neighbour(min(1.0, max(-1.0, float(cosines[i]))), self.rows[i])
            for i, _ in zip(found, range(max(0, limit)), strict=False)
        ]

    def save(self, folder: Path) -> None:
        save_file({"embeddings": self.embeddings.contiguous()}, folder / INDEX)
        (folder / INDEX_ROWS).write_text(json.dumps(self.rows, ensure_ascii=False))

    @classmethod
    def load(cls, folder: Path) -> "Index":
        return cls(load_file(folder / INDEX)["embeddings"], json.loads((folder / INDEX_ROWS).read_text()))


class SentimentPredictor:
    """Answers for one batch at a time, in fp32 on the device that the model is on."""

    backend = "torch"
    precision = "fp32"

    def __init__(
        self, model: SiameseSentiment, tokenizer: Tokenizer, labels: Sequence[str], index: Index | None = None
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.labels = list(labels)
        self.index = index

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        reviews = [self.tokenizer.cut(str(row["text"])) for row in rows]
        return [Item(cost=len(review), payload=review) for review in reviews]

    @torch.inference_mode()
    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        probabilities, embeddings = self.read([item.payload for item in items])
        answers: list[Prediction] = []
        for scores, embedding in zip(probabilities.tolist(), embeddings.tolist(), strict=True):
            named = dict(zip(self.labels, scores, strict=True))
            label = max(named, key=named.__getitem__)
            answers.append({"label": label, "confidence": named[label], "scores": named, "embedding": embedding})
        return answers

    def read(self, reviews: Sequence[Review]) -> tuple[Tensor, Tensor]:
        """Probabilities (rows, classes) and unit embeddings (rows, review_size), on the CPU."""
        device = next(self.model.parameters()).device
        batch = {name: tensor.to(device) for name, tensor in self.tokenizer.tensors(reviews).items()}
        read = self.model(batch)
        return read.scores().cpu(), read.embedding.cpu()

    def similar(self, prediction: Prediction, limit: int, label: str | None = None) -> list[Neighbour]:
        """The training reviews that feel most like the one predicted for."""
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
