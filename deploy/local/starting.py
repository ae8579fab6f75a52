"""Waits for services to serve, and passes on what they say meanwhile: each thing that is missing once, in their words."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

from deploy.local.health import serving, statuses
from millstream.operations.v1.service_status_pb2 import ServiceStatus

TELL_SECONDS = 2.0
"""A service that serves sooner has nothing to say: most reasons are gone by then."""


class Starting:
    """`places` are the address and the service of each replica."""

    def __init__(self, places: Mapping[str, str], settings: Mapping[str, str], say: Callable[[str], None]) -> None:
        self.places, self.settings, self.say = places, settings, say
        self._waiting: dict[str, str] = {}
        """By address, why it does not serve, as it said last."""
        self._said: set[str] = set()

    async def until_serving(self) -> None:
        """Return once all replicas are SERVING."""
        self._waiting = dict.fromkeys(self.places, "")
        await asyncio.gather(*(self._until_serving(address) for address in self.places))

    async def _until_serving(self, address: str) -> None:
        telling = asyncio.create_task(self._tell(address))
        try:
            await serving(address, self.settings)
            del self._waiting[address]
        finally:
            telling.cancel()

    async def _tell(self, address: str) -> None:
        await asyncio.sleep(TELL_SECONDS)
        async with aclosing(statuses(address, self.settings)) as told:
            async for status in told:
                self._warn_of_bus(status)
                if not status.ready:
                    self._waiting[address] = status.not_ready_reason
                    self._once(f"{status.service} waits: {status.not_ready_reason}", status.not_ready_reason)

    def missing(self) -> str:
        """Why not all of them serve: one line for each reason, naming who waits."""
        said: dict[str, set[str]] = {}
        for address, reason in self._waiting.items():
            said.setdefault(reason or "does not answer", set()).add(self.places[address])
        return "\n".join(f"{', '.join(sorted(services))}: {reason}" for reason, services in sorted(said.items()))

    async def watch_bus(self) -> None:
        """Return once every replica has found the bus in order; say what they find meanwhile. Nobody waits for it."""
        await asyncio.gather(*(self._watch_bus(address) for address in self.places))

    async def _watch_bus(self, address: str) -> None:
        async with aclosing(statuses(address, self.settings)) as told:
            async for status in told:
                if status.bus.ok:
                    return
                self._warn_of_bus(status)

    def _warn_of_bus(self, status: ServiceStatus) -> None:
        if problem := status.bus.problem:
            self._once(f"warning: {status.service} cannot use the bus, and serves without it: {problem}", problem)

    def _once(self, text: str, key: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self.say(text)
