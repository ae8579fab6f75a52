"""The model card that goes into the artifact."""

import json
from collections.abc import Sequence
from pathlib import Path

from recipekit.training.loop import Loop
from recipes.siamese_sentiment.spec import Config


def write_card(folder: Path, config: Config, labels: Sequence[str], loop: Loop, rows: int) -> None:
    """README.md with the YAML header that model hubs read; it names no language, since the rows decide on it."""
    best = next((entry for entry in loop.history if entry["step"] == loop.best_step), None)
    validation = best["validation"] if best else {}
    table = "\n".join(f"| {name} | {value:.4f} |" for name, value in sorted(validation.items()))
    parameters = sum(parameter.numel() for parameter in loop.model.parameters())
    (folder / "README.md").write_text(
        f"""---
library_name: millstream
pipeline_tag: text-classification
tags: [sentiment, siamese]
---
# siamese_sentiment

Sentiment of short reviews: a Siamese encoder with a classifier on top. Labels: {", ".join(labels)}.
{parameters:,} parameters, trained on {rows:,} reviews, which are also its index of similar reviews:
**the artifact holds their texts**.

Best validation, at step {loop.best_step} of {loop.total_steps} (these rows chose the weights, so they flatter them;
the evaluation report holds the test split):

| metric | value |
|---|---|
{table}

Meant for short reviews in the language of those that it was trained on. Irony and mixed feelings are not its strength;
confidence is a softmax, not calibrated.

```json
{json.dumps(config.model_dump(mode="json"), indent=1)}
```
"""
    )
