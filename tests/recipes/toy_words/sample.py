"""Makes sample.jsonl: `python -m tests.recipes.toy_words.sample > sample.jsonl`."""

import json
import random

WORDS = {
    "good": ("bright", "kind", "tidy", "sweet", "clever", "calm", "warm", "fair"),
    "bad": ("dull", "rude", "messy", "bitter", "clumsy", "noisy", "cold", "unfair"),
}
THINGS = ("mill", "wheel", "river", "bread", "baker", "horse", "barn", "market", "bridge", "song")


def rows(count: int = 200, seed: int = 7) -> list[dict[str, str]]:
    """Distinct rows, as many of each label; the adjectives alone decide the label."""
    rng = random.Random(seed)
    made: dict[str, str] = {}
    while len(made) < count:
        label = ("good", "bad")[len(made) % 2]
        first, second = rng.sample(WORDS[label], 2)
        thing, other = rng.sample(THINGS, 2)
        made.setdefault(f"the {thing} was {first} and the {other} was {second}", label)
    return [{"text": text, "label": label} for text, label in made.items()]


if __name__ == "__main__":
    for row in rows():
        print(json.dumps(row))
