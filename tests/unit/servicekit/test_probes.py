"""Evidence: parts are tried in the background, asking waits for nobody, and a trouble is told when it begins and ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from millstream.errors import Unavailable
from servicekit.incidents import Incident
from servicekit.runtime import probes
from servicekit.runtime.probes import DependencyProbe


class Store:
    """A part that is as it is told to be."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.hangs = asyncio.Event()
        self.hangs.set()
        self.tries = self.at_once = 0
        self.most_at_once = 0

    async def check(self) -> None:
        self.tries += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.hangs.wait()
        finally:
            self.at_once -= 1
        if self.error:
            raise self.error


@asynccontextmanager
async def tried(check: Callable[[], Awaitable[None]]) -> AsyncIterator[tuple[DependencyProbe, list[bool]]]:
    heard: list[bool] = []

    async def told(name: str, ok: bool) -> None:
        assert name == "blobs"
        heard.append(ok)

    part = DependencyProbe("blobs", check, told, pause=0.001, pause_in_incident=0.001)
    running = asyncio.create_task(part.run())
    try:
        yield part, heard
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.001)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, getattr(record, "problem", "")) for record in caplog.records]


async def test_a_trouble_is_told_with_its_text_and_again_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    async with tried(store.check) as (part, heard):
        await part.require()
        assert part.message().ok and not part.message().problem
        store.error = Unavailable("the store refuses the access key")
        await until(lambda: part.message().problem)
        with pytest.raises(Unavailable, match="refuses the access key"):
            await part.require()
        assert not part.message().ok and part.message().HasField("last_success_time")
        before = store.tries
        await until(lambda: store.tries > before + 5)
        store.error = None
        await until(lambda: part.message().ok)
    assert heard == [True, False, True], "whoever listens hears of changes only"
    assert lines(caplog) == [("ERROR", "the store refuses the access key"), ("INFO", "")]


async def test_before_the_first_try_nothing_is_claimed() -> None:
    store = Store()
    store.hangs.clear()
    async with tried(store.check) as (part, _):
        await until(lambda: store.tries)
        assert not part.message().ok and not part.message().problem
        waiting = asyncio.create_task(part.require())
        store.hangs.set()
        async with asyncio.timeout(20):
            await waiting


async def test_a_part_that_hangs_is_said_to_and_tried_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "TIMEOUT_SECONDS", 0.01)
    store = Store()
    store.hangs.clear()
    async with tried(store.check) as (part, _):
        await until(lambda: "no answer" in part.message().problem)
        await asyncio.sleep(0.05)
        assert (store.tries, store.most_at_once) == (1, 1)
        store.hangs.set()
        await until(lambda: part.message().ok)
    assert store.at_once == 0


async def test_a_check_with_a_bug_is_a_trouble_and_no_end() -> None:
    store = Store()
    store.error = ZeroDivisionError("by a bug")
    async with tried(store.check) as (part, _):
        await until(lambda: "by a bug: ZeroDivisionError" in part.message().problem)
        store.error = None
        await until(lambda: part.message().ok)


def test_each_new_text_is_told_once_and_no_more_than_a_few(caplog: pytest.LogCaptureFixture) -> None:
    incident = Incident("bus")
    for text in ("no broker", "wrong password", "no broker", "wrong password", *map(str, range(100))):
        incident.report(text)
    assert [text for _, text in lines(caplog)] == ["no broker", "wrong password", "0", "1", "2"]
    incident.resolve()
    incident.report("no broker")
    assert lines(caplog)[-1] == ("ERROR", "no broker"), "a new trouble is told again"
