"""The eyes of a SqliteBus: one thread that sees what other processes commit and keeps the leases of this one's members."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from millstream.errors import Unavailable
from servicekit.bus.sqlite.log import Log, MemberLeases

_log = logging.getLogger(__name__)
_POLL_SECONDS = 0.02
_RENEW_SECONDS = 1.0
_EXPEL_SECONDS = _FAULT_SECONDS = 0.5
_PATIENCE = 0.2


class Watch(threading.Thread):
    """Calls `wake` within 20 ms of news; `leases` says whom to keep alive.

    It has a connection of its own: SQLite's data_version does not count what the same connection has committed. A look
    costs microseconds, so idling costs less than 1 % of a core (bench/bus).
    """

    def __init__(self, path: Path, wake: Callable[[], None], leases: Callable[[], MemberLeases]) -> None:
        super().__init__(name="sqlite-bus-watch", daemon=True)
        self.ended = threading.Event()
        self._wake, self._leases = wake, leases
        self._log = Log(path, _PATIENCE)
        self._version: tuple[int, int] | None = None
        self._state: tuple[int, int] | None = None
        self._renew_at = time.monotonic() + _RENEW_SECONDS
        self._expel_at = 0.0

    def run(self) -> None:
        while not self.ended.wait(_POLL_SECONDS):
            try:
                self._look()
                self._keep_leases()
            except Exception as error:
                if not isinstance(error, Unavailable):
                    _log.exception("bus watch failed")
                self._version = None
                self._wake()  # who waits shall meet the fault too
                self.ended.wait(_FAULT_SECONDS)
        self._log.close()

    def _look(self) -> None:
        version = self._log.version()
        if version == self._version:
            return
        state = self._log.state()
        self._version = version
        if state != self._state:
            self._state = state
            self._wake()

    def _keep_leases(self) -> None:
        """Renew before looking for dead members: after a standstill of the whole host all leases look void."""
        now = time.monotonic()
        if now >= self._renew_at:
            self._renew()
            self._renew_at = now + _RENEW_SECONDS
        if now >= self._expel_at:
            self._log.expel()
            self._version = None  # what this connection commits is no news to it, but it may be to our members
            self._expel_at = now + _EXPEL_SECONDS

    def _renew(self) -> None:
        leases = self._leases()
        if leases:
            self._log.renew(leases)
            for left in (
                leases.keys() - self._leases().keys()
            ):  # it left meanwhile, and renewing may have brought it back
                self._log.leave(left)
