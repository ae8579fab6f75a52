"""Batches of similar length under a token budget, the same for the same (seed, epoch) on any machine.

Padding is the largest avoidable cost of training on text: rows are put into buckets of similar length, shuffled within
their bucket and packed (recipekit/packing.py), and the batches are shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recipekit.packing import pack

GROWTH = 1.2
"""The longest row of a bucket is at most this times its shortest: at most a sixth of a full batch is padding."""


def generator(*place: int) -> np.random.Generator:
    """A generator that depends on its place alone, for example (seed, epoch, batch): it needs no state to resume."""
    return np.random.default_rng(place)


@dataclass(frozen=True)
class TokenBatches:
    """Which rows go together. `costs[i]` is the length of row i in tokens, at least 1.

    A row longer than the budget makes a batch of its own. Every epoch has the same number of batches, so that a
    schedule can be planned: rows move between batches of their bucket, lengths do not.
    """

    costs: Sequence[int]
    budget: int
    seed: int
    max_rows: int | None = None

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch, as indices of rows; each row is in exactly one."""
        rng = generator(self.seed, number)
        shuffled = rng.permutation(len(self.costs)).tolist()
        # Packing keeps the order of rows that cost the same, so the rows of a bucket stay shuffled.
        packed = pack([self._rounded[i] for i in shuffled], self.budget, self.max_rows, free_padding=None)
        return [[shuffled[i] for i in packed[place]] for place in rng.permutation(len(packed))]

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._count

    def tokens(self, rows: Sequence[int]) -> int:
        """Tokens of the given rows, padding not counted."""
        return sum(self.costs[i] for i in rows)

    @cached_property
    def _count(self) -> int:
        return len(self.epoch(0))

    @cached_property
    def _rounded(self) -> list[int]:
        """Each row's cost, rounded up to the longest of its bucket: the same in every epoch, so batches are as many."""
        rounded = list(self.costs)
        longest = 0
        for i in sorted(range(len(self.costs)), key=self.costs.__getitem__, reverse=True):
            cost = self.costs[i]
            if cost < 1:
                raise ValueError(f"row {i} costs {cost} tokens; a cost is at least 1")
            if cost * GROWTH < longest or not longest:
                longest = cost
            rounded[i] = longest
        return rounded
