"""Rows into batches under a token budget: the one rule of training, evaluation and serving.

A batch is padded to its longest row, so what it costs is its padded tokens: rows × longest row.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

BATCH_TOKENS = 8192
"""Padded tokens of a batch where a caller has no budget of its own."""
FREE_PADDING = 512
"""Padding in tokens that costs less than a forward pass of its own."""


def pack(
    costs: Sequence[int], tokens: int, rows: int | None = None, free_padding: int | None = FREE_PADDING
) -> list[list[int]]:
    """Indices of `costs` in batches of at most `tokens` padded tokens and `rows` rows, each index once.

    Rows are sorted by cost, and stay in their order where they cost the same. A row over the budget makes a batch of its
    own. A batch also ends where padding would be more than `free_padding` tokens and more than its real tokens; with
    None padding never ends one, so batches are as large as the budget allows.
    """
    batches: list[list[int]] = []
    real = 0
    for i in sorted(range(len(costs)), key=costs.__getitem__):
        cost = costs[i]
        if batches:
            size = len(batches[-1]) + 1
            padding = cost * size - real - cost
            fits = cost * size <= tokens and (rows is None or size <= rows)
            if fits and (free_padding is None or padding <= max(free_padding, real + cost)):
                batches[-1].append(i)
                real += cost
                continue
        batches.append([i])
        real = cost
    return batches


def run_packed(
    forward: Callable[[list[T]], Sequence[R]], inputs: Sequence[T], costs: Sequence[int], tokens: int = BATCH_TOKENS
) -> list[R]:
    """Call `forward` on batches of the inputs and return one output per input, in the order of the inputs.

    Raises ValueError when `forward` returns another number of outputs than it got inputs.
    """
    outputs: dict[int, R] = {}
    for batch in pack(costs, tokens):
        outputs.update(zip(batch, forward([inputs[i] for i in batch]), strict=True))
    return [outputs[i] for i in range(len(inputs))]
