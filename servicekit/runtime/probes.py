"""Dependency probes: the store and the bus are checked in the background."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from millstream.errors import MillstreamError, Unavailable
from millstream.operations.v1.service_status_pb2 import Part
from millstream.timestamps import timestamp
from servicekit.incidents import Trouble
from servicekit.metrics import PART_OK, PART_SUCCESS

PATIENCE_SECONDS = 5.0


class Tried:
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
        pause_in_trouble: float,
    ) -> None:
        self.trouble = Trouble(name)
        self.last_success = 0.0
        self._check, self._told = check, told
        self._pause, self._pause_in_trouble = pause, pause_in_trouble
        self._tried = asyncio.Event()
        self._ok: bool | None = None

    async def require(self) -> None:
        """Raise Unavailable unless the last try succeeded; before the first has ended, wait for it."""
        await self._tried.wait()
        if not self._ok:
            raise Unavailable(self.trouble.text)

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
                    self.trouble.begin(f"{self.trouble.what}: no answer for {PATIENCE_SECONDS:g} s; is it reachable?")
                await self._tell()
                await asyncio.sleep(self._pause if self._ok else self._pause_in_trouble)
        finally:
            if trying:
                trying.cancel()

    def _judge(self, tried: "asyncio.Task[None]") -> None:
        error = asyncio.CancelledError() if tried.cancelled() else tried.exception()
        if error is None:
            self.last_success = time.time()
            PART_SUCCESS.labels(self.trouble.what).set(self.last_success)
            self.trouble.over()
        elif isinstance(error, MillstreamError):
            self.trouble.begin(str(error))
        else:
            self.trouble.begin(f"{self.trouble.what} could not be checked, by a bug: {type(error).__name__}: {error}")

    async def _tell(self) -> None:
        ok = not self.trouble.text
        if ok != self._ok:
            self._ok = ok
            PART_OK.labels(self.trouble.what).set(ok)
            await self._told(self.trouble.what, ok)
        self._tried.set()

    def message(self) -> Part:
        part = Part(ok=bool(self._ok), problem=self.trouble.text)
        if self.last_success:
            part.last_success_time.CopyFrom(timestamp(self.last_success))
        return part


async def _awaited(check: Callable[[], Awaitable[Any]]) -> None:
    await check()
