"""Waits until the services serve, and reports once, for each thing that is missing, what a service waits for."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing

from deploy.local.health import serving, statuses
from millstream.operations.v1.service_status_pb2 import ServiceStatus

REPORT_SECONDS = 2.0
"""The status of a service is read only if it does not serve after this time: most reasons are gone by then."""


class Starting:
    """The start of all replicas.

    `replicas`: each replica's address and service. `settings` hold the credentials. `report` is a callback for each text.
    """

    def __init__(self, replicas: Mapping[str, str], settings: Mapping[str, str], report: Callable[[str], None]) -> None:
        self.replicas, self.settings, self.report = replicas, settings, report
        self._not_ready: dict[str, str] = {}
        """By address, the last reported reason why the replica does not serve; "" where it has not answered."""
        self._reported: set[str] = set()

    async def until_serving(self) -> None:
        """Return once all replicas are SERVING."""
        self._not_ready = dict.fromkeys(self.replicas, "")
        await asyncio.gather(*(self._until_serving(address) for address in self.replicas))

    async def _until_serving(self, address: str) -> None:
        reporting = asyncio.create_task(self._report_reasons(address))
        try:
            await serving(address, self.settings)
            del self._not_ready[address]
        finally:
            reporting.cancel()

    async def _report_reasons(self, address: str) -> None:
        await asyncio.sleep(REPORT_SECONDS)
        async with aclosing(statuses(address, self.settings)) as polled:
            async for status in polled:
                self._warn_of_bus(status)
                if not status.ready:
                    self._not_ready[address] = status.not_ready_reason
                    self._report_once(f"{status.service} waits: {status.not_ready_reason}", status.not_ready_reason)

    def missing(self) -> str:
        """Why not all replicas serve: one line for each reason, led by the services that report it."""
        services: dict[str, set[str]] = {}
        for address, reason in self._not_ready.items():
            services.setdefault(reason or "does not answer", set()).add(self.replicas[address])
        return "\n".join(f"{', '.join(sorted(names))}: {reason}" for reason, names in sorted(services.items()))

    async def watch_bus(self) -> None:
        """Report problems of the bus until every replica has found it healthy. The platform serves meanwhile."""
        await asyncio.gather(*(self._watch_bus(address) for address in self.replicas))

    async def _watch_bus(self, address: str) -> None:
        async with aclosing(statuses(address, self.settings)) as polled:
            async for status in polled:
                if status.bus.ok:
                    return
                self._warn_of_bus(status)

    def _warn_of_bus(self, status: ServiceStatus) -> None:
        if problem := status.bus.problem:
            self._report_once(
                f"warning: {status.service} cannot use the bus, and serves without it: {problem}", problem
            )

    def _report_once(self, text: str, problem: str) -> None:
        """Report a problem by the first service that has it only."""
        if problem not in self._reported:
            self._reported.add(problem)
            self.report(text)
