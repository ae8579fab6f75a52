"""Multinomial logistic regression over the words of a text, as plain dicts of floats."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Model:
    """weights[label][word] and bias[label]; JSON keeps every float to the last bit."""

    labels: list[str]
    bias: dict[str, float] = field(default_factory=dict)
    weights: dict[str, dict[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label in self.labels:
            self.bias.setdefault(label, 0.0)
            self.weights.setdefault(label, {})

    def scores(self, words: Sequence[str]) -> dict[str, float]:
        """Probability of each label; the words' weights are averaged, so that length does not count."""
        share = 1 / max(1, len(words))
        logits = {
            label: self.bias[label] + share * math.fsum(self.weights[label].get(word, 0.0) for word in words)
            for label in self.labels
        }
        top = max(logits.values())
        powers = {label: math.exp(value - top) for label, value in logits.items()}
        total = math.fsum(powers.values())
        return {label: power / total for label, power in powers.items()}

    def learn(self, batch: Sequence[Mapping[str, str]], rate: float) -> float:
        """One gradient step; the batch's mean cross-entropy before it, in nats."""
        loss = 0.0
        for row in batch:
            words = row["text"].lower().split()
            scores = self.scores(words)
            loss -= math.log(max(scores[row["label"]], 1e-12))
            for label, score in scores.items():
                push = rate * ((label == row["label"]) - score)
                self.bias[label] += push / len(batch)
                for word in words:
                    self.weights[label][word] = self.weights[label].get(word, 0.0) + push
        return loss / len(batch)

    def save(self, path: Path) -> None:
        """Write the model as JSON."""
        path.write_text(
            json.dumps({"labels": self.labels, "bias": self.bias, "weights": self.weights}, ensure_ascii=False)
        )

    @classmethod
    def load(cls, path: Path) -> "Model":
        """The model that save() wrote."""
        return cls(**json.loads(path.read_text()))
