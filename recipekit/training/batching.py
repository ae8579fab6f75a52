"""Batches of similar length under a token budget, the same for the same (seed, epoch) on any machine.

Padding is the largest avoidable cost of training on text: rows are put into buckets of similar length, shuffled within
their bucket, cut so that padded length × rows stays within the budget, and the batches are shuffled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

GROWTH = 1.2
"""Each bucket's longest row is at most this times the one's before: at most a sixth of a full batch is padding."""


def generator(*place: int) -> np.random.Generator:
    """A generator that hangs on its place alone, for example (seed, epoch, batch): it needs no state to resume."""
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
    max_rows: int = 1_000_000

    def epoch(self, number: int) -> list[list[int]]:
        """The batches of one epoch, as indices of rows; each row is in exactly one."""
        rng = generator(self.seed, number)
        batches: list[list[int]] = []
        waiting: list[int] = []
        for longest, rows in self._buckets:
            waiting += [rows[i] for i in rng.permutation(len(rows))]
            size = max(1, min(self.max_rows, self.budget // longest))
            full = len(waiting) // size * size
            batches += [waiting[i : i + size] for i in range(0, full, size)]
            waiting = waiting[full:]
        if waiting:
            batches.append(waiting)
        return [batches[i] for i in rng.permutation(len(batches))]

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
    def _buckets(self) -> list[tuple[int, list[int]]]:
        """(longest cost, rows), shortest bucket first."""
        buckets: list[tuple[int, list[int]]] = []
        limit = 0
        for i in sorted(range(len(self.costs)), key=lambda i: (self.costs[i], i)):
            cost = self.costs[i]
            if cost < 1:
                raise ValueError(f"row {i} costs {cost} tokens; a cost is at least 1")
            if cost > limit:
                limit = max(cost, int(cost * GROWTH))
                buckets.append((cost, []))
            buckets[-1] = (cost, buckets[-1][1])
            buckets[-1][1].append(i)
        return buckets
