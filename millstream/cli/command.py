"""What every command has: -o, --host, --port-base, --call-timeout, and errors as one sentence with exit code 1."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from enum import StrEnum
from functools import cached_property, wraps
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from millstream import Client
from millstream.channel import call_timeout
from millstream.cli.hints import PlatformOptions, carrying
from millstream.cli.local import STATE, at_same_place, running_platform
from millstream.cli.output import Screen, advise
from millstream.cli.reach import why_not_reached
from millstream.credentials import Credentials
from millstream.defaults import HOST, PORT_BASE, SERVICES, address
from millstream.errors import DeadlineExceeded, InvalidArgument, MillstreamError, Unauthenticated, Unavailable

T = TypeVar("T")


class Failed(Exception):
    """A command did not do its work; the text says why. Exit code 1."""


class Output(StrEnum):
    """The values of -o."""

    TEXT = "text"
    JSON = "json"


class Cli:
    """What a command works with: its screen, and clients that connect at their first use."""

    def __init__(self, output: Output, host: str | None, port_base: int | None) -> None:
        self.screen = Screen(as_json=output is Output.JSON)
        self._host, self._port_base = host, port_base

    @cached_property
    def client(self) -> Client:
        """The client of the platform, with the credentials of the environment."""
        return Client(credentials=Credentials.from_env(os.environ), **addresses(self._host, self._port_base))

    def of_model(self, model: str, found: Iterator[T]) -> Iterator[T]:
        """What was found of a model. Raises NotFound where that is nothing because there is no such model."""
        first = next(found, None)
        if first is None:
            self.client.model(model)
            return found
        return chain([first], found)

    def replicas(self, state: Path | None = None) -> list[tuple[str, str]]:
        """(service, address) of every replica that is known: of the platform that `up` runs on this folder, else as the
        options and the environment name them, with those of the platform on .millstream where it is the same.

        Raises Failed where no platform serves on the folder.
        """
        found, platform = addresses(self._host, self._port_base), running_platform(state or STATE)
        if state and not (platform and platform.addresses):
            raise Failed(f"no platform serves on {state}: `millstream up --state {state}` starts one")
        if platform and (state or at_same_place(platform, found)):
            found = dict(platform.addresses)
        return [(service, address) for service in SERVICES for address in found[service].split(",")]

    def client_of(self, service: str, address: str) -> Client:
        """A client of one replica; the caller closes it."""
        return Client(credentials=Credentials.from_env(os.environ), **{service: address})

    def close(self) -> None:
        """Close the client, if a command has used it."""
        if "client" in self.__dict__:
            self.client.close()


def addresses(host: str | None, port_base: int | None) -> dict[str, str]:
    """The address of each service: from the options, else MILLSTREAM_DATAPREP and so on, else from MILLSTREAM_PORT_BASE."""
    base = _port_base() if port_base is None else port_base
    found = {service: address(service, base, host or HOST) for service in SERVICES}
    if host is None and port_base is None:
        found |= {service: named for service in SERVICES if (named := os.environ.get(f"MILLSTREAM_{service.upper()}"))}
    return found


def _port_base() -> int:
    """MILLSTREAM_PORT_BASE, so that it need not be typed each time. Raises InvalidArgument."""
    given = os.environ.get("MILLSTREAM_PORT_BASE") or str(PORT_BASE)
    if not re.fullmatch("[0-9]{1,5}", given):
        raise InvalidArgument(f"MILLSTREAM_PORT_BASE={given!r} is no port: use a number such as {PORT_BASE}")
    return int(given)


OutputOption = Annotated[
    Output, typer.Option("-o", "--output", help="text, or json: one document, or lines of a stream")
]
HostOption = Annotated[str | None, typer.Option(help="where the services are; else MILLSTREAM_DATAPREP … or 127.0.0.1")]
PortBaseOption = Annotated[
    int | None, typer.Option(help=f"service i listens on this + i; else MILLSTREAM_PORT_BASE or {PORT_BASE}")
]
CallTimeoutOption = Annotated[
    float | None,
    typer.Option(help="seconds that each call has, its retries and its stream counted; else 30, a stream ∞"),
]
_COMMON = [
    inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=Output.TEXT, annotation=OutputOption),
    inspect.Parameter("host", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=HostOption),
    inspect.Parameter("port_base", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PortBaseOption),
    inspect.Parameter("call_timeout", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=CallTimeoutOption),
]


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function as a command: it receives a Cli and its own parameters, the command line also takes the common ones."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]

        @wraps(function)
        def run(
            output: Output, host: str | None, port_base: int | None, call_timeout: float | None, **given: Any
        ) -> None:
            cli = Cli(output, host, port_base)
            try:
                with carrying(PlatformOptions.of(host, port_base)), _limited(call_timeout):
                    function(cli, **given)
            except BrokenPipeError:  # the reader, `head` for example, has closed the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except (MillstreamError, Failed, OSError) as error:
                with carrying(PlatformOptions.of(host, port_base)):
                    advise(explain(error), error=True)
                raise typer.Exit(1) from None
            finally:
                cli.close()

        parameters = [*own, *_COMMON]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__
        app.command(name)(run)
        return function

    return add


def _limited(seconds: float | None) -> AbstractContextManager[None]:
    return nullcontext() if seconds is None else call_timeout(seconds)


_STATUS = "`millstream status` shows what each service waits for"


def explain(error: Exception) -> str:
    """The error as one sentence for people, led by its field where the text does not name it, with the next step."""
    text = str(error)
    if isinstance(error, Unavailable | Unauthenticated) and not error.answered:
        return why_not_reached(error)
    if isinstance(error, DeadlineExceeded) and not error.answered:
        return f"no answer in time ({text}): {_STATUS}; --call-timeout gives more"
    if isinstance(error, Unavailable) and "`millstream " not in text:
        return f"{text}: {_STATUS}"
    field = getattr(error, "field", "")
    return f"{field}: {text}" if field and field not in text else text
