"""Dependency probes check in the background; an incident is logged when it begins, with each new text, and at its end."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from millstream.errors import Unavailable
from servicekit.incidents import Incident
from servicekit.runtime import probes
from servicekit.runtime.probes import DependencyProbe
from tests.worlds.waiting import HANG, until


class Store:
    """A dependency whose check succeeds, fails or hangs as the test sets it."""

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
async def probing(check: Callable[[], Awaitable[None]]) -> AsyncIterator[tuple[DependencyProbe, list[bool]]]:
    changes: list[bool] = []

    async def on_change(name: str, ok: bool) -> None:
        assert name == "blobs"
        changes.append(ok)

    probe = DependencyProbe("blobs", check, on_change, pause=0.001, pause_in_incident=0.001)
    running = asyncio.create_task(probe.run())
    try:
        yield probe, changes
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait([running])


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, getattr(record, "problem", "")) for record in caplog.records]


async def test_an_incident_is_logged_with_its_text_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    store = Store()
    async with probing(store.check) as (probe, changes):
        await probe.require()
        assert probe.message().ok and not probe.message().problem
        store.error = Unavailable("the store refuses the access key")
        await until(lambda: probe.message().problem)
        with pytest.raises(Unavailable, match="refuses the access key"):
            await probe.require()
        assert not probe.message().ok and probe.message().HasField("last_success_time")
        before = store.tries
        await until(lambda: store.tries > before + 5)
        store.error = None
        await until(lambda: probe.message().ok)
    assert changes == [True, False, True], "on_change is called for changes only"
    assert lines(caplog) == [("ERROR", "the store refuses the access key"), ("INFO", "")]


async def test_before_the_first_check_has_ended_nothing_is_reported() -> None:
    store = Store()
    store.hangs.clear()
    async with probing(store.check) as (probe, _):
        await until(lambda: store.tries)
        assert not probe.message().ok and not probe.message().problem
        waiting = asyncio.create_task(probe.require())
        store.hangs.set()
        async with asyncio.timeout(HANG):
            await waiting


async def test_a_check_that_hangs_is_reported_and_never_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "TIMEOUT_SECONDS", 0.01)
    store = Store()
    store.hangs.clear()
    async with probing(store.check) as (probe, _):
        await until(lambda: "no answer" in probe.message().problem)
        await asyncio.sleep(0.05)
        assert (store.tries, store.most_at_once) == (1, 1)
        store.hangs.set()
        await until(lambda: probe.message().ok)
    assert store.at_once == 0


async def test_a_check_that_raises_a_bug_is_an_incident_and_the_probe_continues() -> None:
    store = Store()
    store.error = ZeroDivisionError("by a bug")
    async with probing(store.check) as (probe, _):
        await until(lambda: "by a bug: ZeroDivisionError" in probe.message().problem)
        store.error = None
        await until(lambda: probe.message().ok)


def test_each_new_text_is_logged_once_and_five_at_most(caplog: pytest.LogCaptureFixture) -> None:
    incident = Incident("bus")
    for text in ("no broker", "wrong password", "no broker", "wrong password", *map(str, range(100))):
        incident.report(text)
    assert [text for _, text in lines(caplog)] == ["no broker", "wrong password", "0", "1", "2"]
    incident.resolve()
    incident.report("no broker")
    assert lines(caplog)[-1] == ("ERROR", "no broker"), "a new incident is logged again"
