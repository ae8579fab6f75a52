"""Dependency probes: the store and the bus are checked in the background."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from millstream.errors import MillstreamError, Unavailable
from millstream.operations.v1.service_status_pb2 import Dependency
from millstream.timestamps import timestamp
from servicekit.incidents import Incident
from servicekit.metrics import DEPENDENCY_OK, DEPENDENCY_SUCCESS

PATIENCE_SECONDS = 5.0


class DependencyProbe:
    """One part, tried again and again in the background, so that whoever asks about it never waits for it.

    `told` hears of each change. A try that hangs is waited for and not doubled.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], Awaitable[None]],
        told: Callable[[str, bool], Awaitable[None]],
        *,
        pause: float,
        pause_in_incident: float,
    ) -> None:
        self.incident = Incident(name)
        self.last_success = 0.0
        self._check, self._told = check, told
        self._pause, self._pause_in_incident = pause, pause_in_incident
        self._tried = asyncio.Event()
        self._ok: bool | None = None

    async def require(self) -> None:
        """Raise Unavailable unless the last try succeeded; before the first has ended, wait for it."""
        await self._tried.wait()
        if not self._ok:
            raise Unavailable(self.incident.text)

    async def run(self) -> None:
        """Try for ever."""
        trying: asyncio.Task[None] | None = None
        try:
            while True:
                trying = trying or asyncio.create_task(_awaited(self._check))
                await asyncio.wait([trying], timeout=PATIENCE_SECONDS)
                if trying.done():
                    self._judge(trying)
                    trying = None
                else:
                    self.incident.begin(f"{self.incident.what}: no answer for {PATIENCE_SECONDS:g} s; is it reachable?")
                await self._tell()
                await asyncio.sleep(self._pause if self._ok else self._pause_in_incident)
        finally:
            if trying:
                trying.cancel()

    def _judge(self, tried: "asyncio.Task[None]") -> None:
        error = asyncio.CancelledError() if tried.cancelled() else tried.exception()
        if error is None:
            self.last_success = time.time()
            DEPENDENCY_SUCCESS.labels(self.incident.what).set(self.last_success)
            self.incident.over()
        elif isinstance(error, MillstreamError):
            self.incident.begin(str(error))
        else:
            self.incident.begin(f"{self.incident.what} could not be checked, by a bug: {type(error).__name__}: {error}")

    async def _tell(self) -> None:
        ok = not self.incident.text
        if ok != self._ok:
            self._ok = ok
            DEPENDENCY_OK.labels(self.incident.what).set(ok)
            await self._told(self.incident.what, ok)
        self._tried.set()

    def message(self) -> Dependency:
        part = Dependency(ok=bool(self._ok), problem=self.incident.text)
        if self.last_success:
            part.last_success_time.CopyFrom(timestamp(self.last_success))
        return part


async def _awaited(check: Callable[[], Awaitable[Any]]) -> None:
    await check()
