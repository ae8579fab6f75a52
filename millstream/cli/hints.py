"""The next commands that texts name in backticks: with the options that found this platform, so that they work as pasted."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from millstream.cli.local import STATE, running_platform
from millstream.defaults import PORT_BASE, SERVICES

_COMMAND = re.compile("`millstream (?!down\\b)([^`\n]*)`")


@dataclass(frozen=True)
class PlatformOptions:
    """How the present command was told where the platform is; empty: it is where every command looks by itself."""

    host: str = ""
    port_base: str = ""
    state: Path = STATE
    """The folder of the platform that is meant, if one of this machine is."""

    @classmethod
    def of(cls, host: str | None, port_base: int | None) -> "PlatformOptions":
        """From the command line, else from MILLSTREAM_PORT_BASE: another terminal does not have the variable."""
        if port_base is not None:
            return cls(host or "", str(port_base))
        # Without --host, those take precedence over it.
        named = host is None and any(os.environ.get(f"MILLSTREAM_{service.upper()}") for service in SERVICES)
        base = "" if named else os.environ.get("MILLSTREAM_PORT_BASE", "")
        return cls(host or "", "" if base == str(PORT_BASE) else base)

    @classmethod
    def of_state(cls, state: Path) -> "PlatformOptions":
        """Of the platform that runs on this folder."""
        platform = running_platform(state)
        return cls(port_base=str(platform.port_base) if platform else "", state=state)

    def added_to(self, command: str) -> str:
        """The command with these options, where it takes them and has none of its own."""
        of_host = [] if not self.host or command.startswith("up") else ["--host", self.host]
        of_port = ["--port-base", self.port_base] if self.port_base else []
        return " ".join([command, *([] if "--host" in command or "--port-base" in command else of_host + of_port)])


_options: ContextVar[PlatformOptions] = ContextVar("platform_options", default=PlatformOptions())  # noqa: B039  (frozen)


def present() -> PlatformOptions:
    """Those of the present command."""
    return _options.get()


@contextmanager
def carrying(options: PlatformOptions) -> Iterator[None]:
    """Add these options to the commands of each text that is printed inside."""
    before = _options.set(options)
    try:
        yield
    finally:
        _options.reset(before)


def with_options(text: str) -> str:
    """The text, whose commands in backticks have the options of the present command."""
    return _COMMAND.sub(lambda found: f"`millstream {_options.get().added_to(found[1])}`", text)
