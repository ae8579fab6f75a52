"""Concurrent requests through one model: each gets its own rows back, and is refused early when it cannot be answered."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest
from prometheus_client import REGISTRY

from millstream.errors import DeadlineExceeded, Internal, InvalidArgument, Overloaded
from recipekit.predictor import Item
from recipekit.spec import Prediction, Row
from services.inference.engine.batcher import Batcher, Timing
from services.inference.engine.queue import Limits
from tests.worlds.waiting import HANG, until


class Slow:
    """Answers a row with its text and length; remembers its batches; can be held until released."""

    backend = "fake"
    precision = "exact"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def prepare(self, rows: Sequence[Row]) -> list[Item]:
        return [Item(cost=max(1, len(str(row["text"]).split())), payload=row["text"]) for row in rows]

    def forward(self, items: Sequence[Item]) -> list[Prediction]:
        self.batches.append([item.payload for item in items])
        self.go.wait(HANG)
        time.sleep(self.seconds)
        if any("poison" in item.payload for item in items):
            raise ValueError("poison")
        return [{"text": item.payload, "words": item.cost} for item in items]


@asynccontextmanager
async def running(predictor: Slow, **limits: int) -> AsyncIterator[Batcher]:
    with ThreadPoolExecutor(2) as pool:
        batcher = Batcher("m", predictor, Limits(**limits), pool)
        yield batcher
        predictor.go.set()
        await batcher.close()


class Answer(NamedTuple):
    predictions: list[Prediction]
    timing: Timing


async def predict(batcher: Batcher, texts: Sequence[str], deadline: float | None) -> Answer:
    async with batcher.admit(deadline) as admitted:
        items = await admitted.prepare(lambda: batcher.predictor.prepare([{"text": text} for text in texts]))
        return Answer(await admitted.predict(items), admitted.timing)


def ask(batcher: Batcher, *texts: str, deadline: float | None = None) -> asyncio.Task[Answer]:
    return asyncio.create_task(predict(batcher, texts, deadline))


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"millstream_inference_{name}", {"model": "m", **labels}) or 0.0


async def test_two_hundred_concurrent_requests_get_exactly_their_rows() -> None:
    rng = random.Random(1)
    wanted = [[" ".join([f"{r}.{i}"] * rng.randint(1, 60)) for i in range(rng.randint(1, 12))] for r in range(200)]
    predictor = Slow(0.001)
    async with running(predictor, batch_tokens=400, batch_rows=32) as batcher:
        answers = await asyncio.gather(*(ask(batcher, *texts) for texts in wanted))
    one_by_one = Slow()
    for texts, answer in zip(wanted, answers, strict=True):
        alone = [one_by_one.forward(one_by_one.prepare([{"text": text}]))[0] for text in texts]
        assert answer.predictions == alone
        assert answer.timing.prepare > 0 and answer.timing.infer > 0 and answer.timing.queue >= 0
    assert max(len(batch) for batch in predictor.batches) > 1
    assert len(predictor.batches) < sum(map(len, wanted)) / 4
    assert all(len(batch) <= 32 for batch in predictor.batches)
    for batch in predictor.batches:
        assert len(batch) * max(len(text.split()) for text in batch) <= 400
    assert batcher.queue.tokens == 0 and value("queue_tokens") == 0


async def test_a_request_does_not_wait_for_others_to_fill_its_batch() -> None:
    predictor = Slow()
    async with running(predictor, batch_rows=100) as batcher:
        await ask(batcher, "first")
        await ask(batcher, "second")
    assert predictor.batches == [["first"], ["second"]]


async def test_a_request_larger_than_a_batch_takes_turns() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor, batch_tokens=10, batch_rows=10) as batcher:
        large = ask(batcher, *(f"large {i}" for i in range(40)))
        await until(lambda: predictor.batches)
        small = ask(batcher, "small")
        await until(lambda: batcher.in_flight == 2 and batcher.queue.tokens % 2)
        predictor.go.set()
        assert (await small).predictions == [{"text": "small", "words": 1}]
        assert not large.done()
        assert [p["text"] for p in (await large).predictions] == [f"large {i}" for i in range(40)]


async def test_a_full_queue_refuses_at_once_and_says_when_to_retry() -> None:
    predictor = Slow()
    async with running(predictor, queue_tokens=10, batch_tokens=4) as batcher:
        await ask(batcher, "warm")
        predictor.go.clear()
        held = ask(batcher, "a b c d")
        await until(lambda: len(predictor.batches) == 2)
        waiting = ask(batcher, "a b c d", "e f g h")
        await until(lambda: batcher.queue.tokens == 8)
        before = value("requests_refused_total", reason="overloaded")
        with pytest.raises(Overloaded) as refused:
            await ask(batcher, "a b c")
        assert refused.value.retry_after > 0
        assert value("requests_refused_total", reason="overloaded") == before + 1
        predictor.go.set()
        assert len((await held).predictions) == 1 and len((await waiting).predictions) == 2
        assert len((await ask(batcher, "again")).predictions) == 1


async def test_too_many_requests_are_refused_before_they_are_prepared() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor, queue_requests=1) as batcher:
        held = ask(batcher, "a")
        await until(lambda: predictor.batches)
        with pytest.raises(Overloaded):
            async with batcher.admit():
                pytest.fail("was admitted")
        predictor.go.set()
        await held


async def test_a_request_larger_than_the_queue_is_answered_when_it_is_alone() -> None:
    async with running(Slow(), queue_tokens=5) as batcher:
        assert len((await ask(batcher, *["a b"] * 10)).predictions) == 10


async def test_an_expired_deadline_is_refused_before_anything() -> None:
    predictor = Slow()
    async with running(predictor) as batcher:
        with pytest.raises(DeadlineExceeded):
            async with batcher.admit(time.monotonic() - 1):
                pytest.fail("was admitted")
    assert predictor.batches == []


async def test_a_deadline_that_passes_in_the_queue_never_reaches_the_model() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor) as batcher:
        held = ask(batcher, "held")
        await until(lambda: predictor.batches)
        with pytest.raises(DeadlineExceeded):
            await ask(batcher, "late", deadline=time.monotonic() + 0.05)
        assert batcher.queue.tokens == 0
        predictor.go.set()
        await held
        await ask(batcher, "after")
    assert predictor.batches == [["held"], ["after"]]


async def test_a_cancelled_request_costs_no_compute() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor) as batcher:
        held = ask(batcher, "held")
        await until(lambda: predictor.batches)
        gone = ask(batcher, "gone")
        await until(lambda: batcher.queue.tokens == 1)
        before = value("requests_refused_total", reason="cancelled")
        gone.cancel()
        await asyncio.wait([gone])
        assert batcher.queue.tokens == 0 and value("requests_refused_total", reason="cancelled") == before + 1
        predictor.go.set()
        await held
    assert predictor.batches == [["held"]]


async def test_the_rest_of_a_large_request_is_dropped_when_it_is_cancelled() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor, batch_tokens=2) as batcher:
        large = ask(batcher, *"abcdefgh")
        await until(lambda: predictor.batches)
        large.cancel()
        await asyncio.wait([large])
        predictor.go.set()
        await ask(batcher, "after")
    assert [len(batch) for batch in predictor.batches] == [2, 1]


async def test_a_bad_row_fails_only_its_own_request() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor) as batcher:
        held = ask(batcher, "held")
        await until(lambda: predictor.batches)
        good, bad, fine = ask(batcher, "good", "better"), ask(batcher, "poison", "pure"), ask(batcher, "fine")
        await until(lambda: batcher.queue.tokens == 5)
        predictor.go.set()
        assert len((await good).predictions) == 2 and len((await fine).predictions) == 1
        with pytest.raises(Internal, match="ValueError"):
            await bad
        assert len((await held).predictions) == 1
    assert len(predictor.batches[1]) == 5


async def test_rows_that_are_refused_fail_only_their_own_request() -> None:
    def refuse() -> list[Item]:
        raise InvalidArgument("no", field="rows[0].text")

    async with running(Slow()) as batcher:
        with pytest.raises(InvalidArgument):
            async with batcher.admit() as admitted:
                await admitted.prepare(refuse)
        assert batcher.in_flight == 0
        assert (await ask(batcher, "fine")).predictions


async def test_work_in_the_models_thread_runs_between_batches_and_ends_at_the_deadline() -> None:
    predictor = Slow()
    predictor.go.clear()
    ran: list[str] = []

    async def search(name: str, deadline: float | None = None) -> Timing:
        async with batcher.admit(deadline) as admitted:
            await admitted.infer(lambda: ran.append(name))
        return admitted.timing

    async with running(predictor) as batcher:
        held = ask(batcher, "held")
        await until(lambda: predictor.batches)
        waits = asyncio.create_task(search("waits"))
        await until(lambda: batcher.in_flight == 2)
        with pytest.raises(DeadlineExceeded):
            await search("late", time.monotonic() + 0.05)
        assert ran == [] and batcher.in_flight == 2
        predictor.go.set()
        timing = await waits
        assert (await held).predictions and timing.queue > 0
        await search("last")
    assert ran == ["waits", "last"], "work whose deadline passed in the queue was run"


async def test_closing_answers_what_is_in_flight() -> None:
    predictor = Slow()
    predictor.go.clear()
    async with running(predictor) as batcher:
        held, waiting = ask(batcher, "held"), ask(batcher, "waiting")
        await until(lambda: predictor.batches)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        predictor.go.set()
        assert (await held).predictions and (await waiting).predictions
        await closing
