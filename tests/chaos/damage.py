"""Faults that damage what the platform keeps, or make one of its processes see what others do not."""

import asyncio
import os
import random
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress

from millstream.defaults import SERVICES
from millstream.errors import MillstreamError
from tests.chaos.faults import BACK_SECONDS, READERS, Kill, KillWorker, all_serving, first
from tests.chaos.target import TOKEN, Platform
from tests.e2e import invariants

GARBAGE = b'{"labels": ['


class DamagedCheckpoint(KillWorker):
    """The newest checkpoint of the flow's run is damaged in the store, then its worker is killed."""

    def __init__(self, platform: Platform, chance: random.Random, over: Callable[[], bool]) -> None:
        super().__init__(platform, chance, over)
        self.world = platform.world

    def begin(self) -> bool:
        known = set(self._checkpoints())
        if not (
            keys := first(lambda: [key for key in self._checkpoints() if key not in known], BACK_SECONDS, self.over)
        ):
            return False
        assert isinstance(keys, list)
        newest = max(keys, key=lambda key: key.split("/")[3])
        with suppress(MillstreamError):
            asyncio.run(self.world.blobs().put(newest, GARBAGE))
        return super().begin()

    def _checkpoints(self) -> list[str]:
        with suppress(MillstreamError):
            return [
                key for key in invariants.keys(self.world.blobs(), "checkpoints/") if key.endswith("/files/model.json")
            ]
        return []


class DamagedCache(Kill):
    """Every cached file of a service is cut to its first half, and the service is killed."""

    def begin(self) -> bool:
        for path in (self.world.state / "cache" / self.service).rglob("*"):
            with suppress(OSError):
                if path.is_file():
                    os.truncate(path, path.stat().st_size // 2)
        return super().begin()


class WrongToken(Kill):
    """A service starts with a token that its peers do not know, and gets the right one after a while.

    All services read the same file at their start, so whatever started meanwhile is started again.
    """

    resources: Sequence[str] = ("token",)

    def __init__(self, platform: Platform, chance: random.Random, service: str) -> None:
        super().__init__(platform, chance, service)
        self.file = platform.token_file

    def begin(self) -> bool:
        self.before = self._pids()
        self._all_serve()  # then those have read the right token; one that another fault has just killed may not
        self.file.write_text("some-other-token\n")
        return super().begin()

    def heal(self) -> None:
        self.file.write_text(f"{TOKEN}\n")
        wrong = self._pids() - self.before
        for pid in wrong:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        first(lambda: not wrong & self._pids(), BACK_SECONDS)
        self._all_serve()

    def _all_serve(self) -> None:
        ports = self.world.ports
        listening = [ports.listen(service, number) for service in SERVICES for number in range(ports.replicas)]
        asyncio.run(all_serving(listening))

    def _pids(self) -> set[int]:
        return {pid for service in SERVICES for pid in self.world.pids(service)}


class ListedInVain:
    """The store's listings show keys beside the flow's that were never stored, as after puts that were given up."""

    resources: Sequence[str] = ()
    readers: Sequence[str] = READERS

    def __init__(self, platform: Platform, name: str) -> None:
        self.platform, self.name = platform, name

    def begin(self) -> bool:
        name = self.name
        keys = [
            f"datasets/{name}/imports/in-vain",
            f"datasets/{name}/outcomes/import-{name}",
            "runs/requests/in-vain",
            "models/in-vain/spec/0000000001",
            f"models/{name}/versions/0000000009",
            f"reports/{name}/0000000001/in-vain/report",
            f"refusals/{name}/0000000001/refusal",
            "outbox/trainer/in-vain",
            *(f"runs/outcomes/{run_id}" for run_id in self._open_runs()),
        ]
        with self.platform.vain.open("a") as file:
            file.write("\n".join(keys) + "\n")
        return True

    def _open_runs(self) -> list[str]:
        with suppress(MillstreamError):
            blobs = self.platform.world.blobs()
            ended = {key.rpartition("/")[2] for key in invariants.keys(blobs, "runs/outcomes/")}
            return [
                run_id
                for key in invariants.keys(blobs, "runs/requests/")
                if (run_id := key.rpartition("/")[2]) not in ended
            ]
        return []

    def heal(self) -> None:
        """Nothing heals it."""


class NoDevice:
    """One replica of inference cannot load anything: a trouble of its machine."""

    resources: Sequence[str] = ()
    readers: Sequence[str] = ()

    def __init__(self, platform: Platform) -> None:
        self.file = platform.no_device / platform.world.ports.listen("inference", platform.world.ports.replicas - 1)

    def begin(self) -> bool:
        self.file.touch()
        return True

    def heal(self) -> None:
        self.file.unlink()
