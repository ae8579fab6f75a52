"""What every command has: the options -o, --host and --port-base, and errors as one sentence with exit code 1."""

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import cached_property, wraps
from itertools import chain
from typing import Annotated, Any, TypeVar

import typer

from millstream import Client
from millstream.cli.output import Screen, write
from millstream.credentials import Credentials
from millstream.defaults import HOST, PORT_BASE, SERVICES, address
from millstream.errors import InvalidArgument, MillstreamError, Unavailable

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

    def replicas(self) -> list[tuple[str, str]]:
        """(service, address) of every replica."""
        found = addresses(self._host, self._port_base)
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
_COMMON = [
    inspect.Parameter("output", inspect.Parameter.KEYWORD_ONLY, default=Output.TEXT, annotation=OutputOption),
    inspect.Parameter("host", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=HostOption),
    inspect.Parameter("port_base", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=PortBaseOption),
]


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Add a function as a command: it receives a Cli and its own parameters, the command line also takes the common ones."""

    def add(function: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(function).parameters.values())[1:]

        @wraps(function)
        def run(output: Output, host: str | None, port_base: int | None, **given: Any) -> None:
            cli = Cli(output, host, port_base)
            try:
                function(cli, **given)
            except BrokenPipeError:  # the reader, `head` for example, has closed the pipe
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except (MillstreamError, Failed, OSError) as error:
                write(explain(error), error=True)
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


def explain(error: Exception) -> str:
    """The error as one sentence for people, led by its field where the text does not name it."""
    text = str(error)
    if isinstance(error, Unavailable) and ("connect" in text or "resol" in text):
        return f"no answer ({text}): is the platform up? `millstream up` starts one on this machine"
    field = getattr(error, "field", "")
    return f"{field}: {text}" if field and field not in text else text
