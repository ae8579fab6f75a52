"""What waits for a model, and how it is cut into batches."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from recipekit.predictor import Item
from recipekit.spec import Prediction
from services.inference import metrics

FREE_PADDING = 512
"""Padding in tokens that costs less than a forward of its own."""


@dataclass(frozen=True)
class Limits:
    """Of one loaded version. Tokens are the recipe's own measure of cost."""

    batch_tokens: int = 8192
    batch_rows: int = 256
    queue_tokens: int = 262144
    queue_requests: int = 1024


@dataclass(eq=False)
class QueuedRequest:
    """A prepared request until its last row is answered."""

    items: Sequence[Item]
    deadline: float | None
    done: asyncio.Future[None]
    rows: deque[int] = field(init=False)
    """Numbers of the rows that are in no batch yet, shortest first."""
    predictions: dict[int, Prediction] = field(default_factory=dict)
    infer: float = 0.0

    def __post_init__(self) -> None:
        self.rows = deque(sorted(range(len(self.items)), key=lambda i: self.items[i].cost))

    @property
    def is_gone(self) -> bool:
        """Nobody waits for the answer any more."""
        return self.done.done() or (self.deadline is not None and self.deadline <= time.monotonic())

    @property
    def queued_tokens(self) -> int:
        return sum(self.items[i].cost for i in self.rows)


@dataclass(frozen=True)
class QueuedRow:
    """One row on its way through the model."""

    request: QueuedRequest
    number: int

    @property
    def item(self) -> Item:
        return self.request.items[self.number]


def into_batches(lines: Iterable[QueuedRow], limits: Limits) -> list[list[QueuedRow]]:
    """Lines sorted by length, cut where the padded batch would burst its limits or be padding for the most part."""
    batches: list[list[QueuedRow]] = []
    tokens = 0
    for line in sorted(lines, key=lambda line: line.item.cost):
        cost = line.item.cost
        if batches:
            padded = cost * (len(batches[-1]) + 1)
            wasted = padded - tokens - cost
            fits = padded <= limits.batch_tokens and len(batches[-1]) < limits.batch_rows
            if fits and wasted <= max(FREE_PADDING, tokens + cost):
                batches[-1].append(line)
                tokens += cost
                continue
        batches.append([line])
        tokens = cost
    return batches


class Queue:
    """Requests with rows that are in no batch yet, oldest first, and what they cost."""

    def __init__(self, model: str, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.tokens = 0
        self._waiting: deque[QueuedRequest] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def append(self, request: QueuedRequest) -> None:
        self._waiting.append(request)
        self._count(request.queued_tokens)

    def forget(self, request: QueuedRequest) -> None:
        """Take out what is still queued of a request that ended early."""
        if request.rows:
            self._count(-request.queued_tokens)
            request.rows.clear()
            with suppress(ValueError):
                self._waiting.remove(request)

    def take(self) -> list[QueuedRow]:
        """Rows up to the budget, oldest request first. One with more than fits goes behind the others."""
        lines: list[QueuedRow] = []
        tokens = 0
        while self._waiting:
            request = self._waiting[0]
            if request.is_gone:
                self.forget(request)
                continue
            before = len(lines)
            while request.rows and len(lines) < self.limits.batch_rows:
                cost = request.items[request.rows[0]].cost
                if lines and tokens + cost > self.limits.batch_tokens:
                    break
                lines.append(QueuedRow(request, request.rows.popleft()))
                tokens += cost
            if request.rows:
                if len(lines) > before:
                    self._waiting.rotate(-1)
                break
            self._waiting.popleft()
        self._count(-tokens)
        return lines

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        metrics.QUEUE_TOKENS.labels(self.model).inc(tokens)
