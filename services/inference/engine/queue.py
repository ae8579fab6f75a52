"""What waits for a model: requests in the order of their arrival, and how their rows are taken out in batches."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from recipekit.packing import BATCH_TOKENS, pack
from recipekit.predictor import Item
from recipekit.spec import Prediction
from recipekit.text_limits import LONGEST_TEXT
from services.inference import metrics


@dataclass(frozen=True)
class Limits:
    """Of one loaded version. Tokens are the recipe's own measure of cost."""

    batch_tokens: int = BATCH_TOKENS
    batch_rows: int = 256
    queue_tokens: int = 262144
    queue_requests: int = 1024
    queue_characters: int = 4_194_304
    """Of all requests in flight: what they may cost before their tokens are known."""
    longest_text: int = LONGEST_TEXT


@dataclass(eq=False)
class QueuedRequest:
    """A prepared request until its last row has a prediction."""

    items: Sequence[Item]
    deadline: float | None
    done: asyncio.Future[None]
    rows: deque[int] = field(init=False)
    """Numbers of the rows that are in no batch yet, shortest first."""
    predictions: dict[int, Prediction] = field(default_factory=dict)
    infer: float = 0.0
    """Seconds that the model took for this request's batches."""

    def __post_init__(self) -> None:
        self.rows = deque(sorted(range(len(self.items)), key=lambda i: self.items[i].cost))

    @property
    def is_over(self) -> bool:
        """Whether the caller no longer waits: the request ended, was cancelled or is past its deadline."""
        return self.done.done() or (self.deadline is not None and self.deadline <= time.monotonic())

    @property
    def queued_tokens(self) -> int:
        """Tokens of the rows that are in no batch yet."""
        return sum(self.items[i].cost for i in self.rows)


@dataclass(frozen=True)
class QueuedRow:
    """One row on its way through the model."""

    request: QueuedRequest
    number: int

    @property
    def item(self) -> Item:
        """The row, prepared."""
        return self.request.items[self.number]


class Queue:
    """Requests with rows that are in no batch yet, oldest first. `tokens` is what these rows cost, without padding."""

    def __init__(self, model: str, limits: Limits) -> None:
        self.model, self.limits = model, limits
        self.tokens = 0
        self._requests: deque[QueuedRequest] = deque()

    def __bool__(self) -> bool:
        return bool(self._requests)

    def append(self, request: QueuedRequest) -> None:
        """Add a request with at least one row behind all others."""
        self._requests.append(request)
        self._count(request.queued_tokens)

    def remove(self, request: QueuedRequest) -> None:
        """Remove the rows of a request that are still queued, if there are any."""
        if request.rows:
            self._count(-request.queued_tokens)
            request.rows.clear()
            with suppress(ValueError):
                self._requests.remove(request)

    def take(self) -> list[list[QueuedRow]]:
        """Remove about one batch of rows, oldest request first, and return them packed.

        A request with more rows than fit goes behind the others. The budget counts the rows' own tokens here: how much
        padding a row costs is only known once it is packed, which may make more than one batch.
        """
        rows: list[QueuedRow] = []
        tokens = 0
        while self._requests:
            request = self._requests[0]
            if request.is_over:
                self.remove(request)
                continue
            before = len(rows)
            while request.rows and len(rows) < self.limits.batch_rows:
                cost = request.items[request.rows[0]].cost
                if rows and tokens + cost > self.limits.batch_tokens:
                    break
                rows.append(QueuedRow(request, request.rows.popleft()))
                tokens += cost
            if request.rows:
                if len(rows) > before:
                    self._requests.rotate(-1)
                break
            self._requests.popleft()
        self._count(-tokens)
        batches = pack([row.item.cost for row in rows], self.limits.batch_tokens, self.limits.batch_rows)
        return [[rows[i] for i in batch] for batch in batches]

    def _count(self, tokens: int) -> None:
        self.tokens += tokens
        metrics.QUEUE_TOKENS.labels(self.model).inc(tokens)
