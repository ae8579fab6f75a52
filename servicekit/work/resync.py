"""Finds work without events: often what is open, and now and then all there is.

What is open is listed every `resync_seconds`, at a cost that follows it alone. A comparison in full, whose cost follows
everything that ever was, runs at start, some minutes later, when the replicas of an older version that left no markers are
gone, and once in `full_resync_seconds`. It runs as often as the other while something is damaged, so that it goes on within
seconds once that is restored, and while a broadcast reader misses events.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from millstream.errors import MillstreamError
from servicekit import metrics
from servicekit.backoff import backoff

log = logging.getLogger(__name__)
FULL_RESYNC_SECONDS, SECOND_SECONDS = 3600.0, 300.0
LOOK_AGAIN_SECONDS = 30.0
"""Until the next look at work that waits for what no event announces, such as a damaged object that is restored."""
BUG_FAILURES = 4
"""A bug waits as if so many tries had failed before: it seldom passes by itself."""


class Resync:
    """One loop: it looks, and looks again when it is asked to or its time has come."""

    def __init__(self, kind: str, look: Callable[[], Awaitable[None]], pause: Callable[[int], float]) -> None:
        """`look` queues what it finds; `pause` says after so many looks how many seconds to wait for the next."""
        self.kind, self._look, self._pause = kind, look, pause
        self._now = asyncio.Event()
        self._waiters: list[asyncio.Event] = []

    def soon(self) -> None:
        """Look in the background."""
        self._now.set()

    async def now(self) -> None:
        """Look, and return once everything found is queued."""
        done = asyncio.Event()
        self._waiters.append(done)
        self.soon()
        await done.wait()

    async def run(self) -> None:
        """Look until cancelled."""
        failures = looks = 0
        while True:
            self._now.clear()
            waiting = list(self._waiters)
            try:
                await self._look()
                metrics.RESYNCED.labels(self.kind).set_to_current_time()
                for event in waiting:
                    event.set()
                    self._waiters.remove(event)
                failures, looks = 0, looks + 1
                pause = self._pause(looks)
            except MillstreamError as error:
                failures += 1
                pause = backoff(failures)
                log.info("resync failed", extra={"kind": self.kind, "error": str(error), "retry_in": round(pause, 3)})
            except Exception:
                failures += 1
                pause = backoff(failures + BUG_FAILURES)
                log.exception("resync failed by a bug", extra={"kind": self.kind})
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._now.wait()
