"""Dependency probes: the store and the bus are checked in the background, so that no request waits for a check."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from millstream.errors import MillstreamError, Unavailable
from millstream.operations.v1.service_status_pb2 import Dependency
from millstream.timestamps import timestamp
from servicekit.incidents import Incident
from servicekit.metrics import DEPENDENCY_OK, DEPENDENCY_SUCCESS

TIMEOUT_SECONDS = 5.0
"""The timeout of a check: one that has not ended by then counts as failed."""


class DependencyProbe:
    """Runs `check` every `pause` seconds (`pause_in_incident` while it fails) and keeps the result.

    `on_change` is called with the name and whether the check succeeded, once for each change. Checks never overlap: one that
    hangs counts as failed until it ends.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[], Awaitable[None]],
        on_change: Callable[[str, bool], Awaitable[None]],
        *,
        pause: float,
        pause_in_incident: float,
    ) -> None:
        self.incident = Incident(name)
        self.last_success = 0.0
        self._check, self._on_change = check, on_change
        self._pause, self._pause_in_incident = pause, pause_in_incident
        self._checked = asyncio.Event()
        self._ok: bool | None = None

    async def require(self) -> None:
        """Raise Unavailable unless the last check succeeded; wait for the first."""
        await self._checked.wait()
        if not self._ok:
            raise Unavailable(self.incident.problem)

    async def run(self) -> None:
        """Check until cancelled."""
        checking: asyncio.Task[None] | None = None
        try:
            while True:
                checking = checking or asyncio.create_task(_awaited(self._check))
                await asyncio.wait([checking], timeout=TIMEOUT_SECONDS)
                if checking.done():
                    self._record(checking)
                    checking = None
                else:
                    self.incident.report(
                        f"{self.incident.component}: no answer for {TIMEOUT_SECONDS:g} s; is it reachable?"
                    )
                await self._publish()
                await asyncio.sleep(self._pause if self._ok else self._pause_in_incident)
        finally:
            if checking:
                checking.cancel()

    def _record(self, checked: "asyncio.Task[None]") -> None:
        error = asyncio.CancelledError() if checked.cancelled() else checked.exception()
        if error is None:
            self.last_success = time.time()
            DEPENDENCY_SUCCESS.labels(self.incident.component).set(self.last_success)
            self.incident.resolve()
        elif isinstance(error, MillstreamError):
            self.incident.report(str(error))
        else:
            self.incident.report(
                f"{self.incident.component} could not be checked, by a bug: {type(error).__name__}: {error}"
            )

    async def _publish(self) -> None:
        ok = not self.incident.problem
        if ok != self._ok:
            self._ok = ok
            DEPENDENCY_OK.labels(self.incident.component).set(ok)
            await self._on_change(self.incident.component, ok)
        self._checked.set()

    def message(self) -> Dependency:
        """The last result, as GetStatus returns it."""
        dependency = Dependency(ok=bool(self._ok), problem=self.incident.problem)
        if self.last_success:
            dependency.last_success_time.CopyFrom(timestamp(self.last_success))
        return dependency


async def _awaited(check: Callable[[], Awaitable[Any]]) -> None:
    await check()
