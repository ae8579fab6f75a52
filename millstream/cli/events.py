"""`millstream events`."""

from itertools import islice
from typing import Annotated

import typer

from millstream.cli.command import Cli, command
from millstream.cli.format import when
from millstream.operations.v1.operations_service_pb2 import TailEventsResponse

app = typer.Typer(name="events", help="Events on the bus.", no_args_is_help=True)


@command(app, "tail")
def tail(
    cli: Cli,
    topic: Annotated[list[str] | None, typer.Option(help="only this one, such as millstream.registry.v1")] = None,
    count: Annotated[int, typer.Option(help="stop after this many; 0: at Ctrl-C")] = 0,
) -> None:
    """Show events from now on."""
    events = cli.client.events(topic or ())
    if count:
        events = islice(events, count)
    try:
        cli.screen.stream(events, _line)
    except KeyboardInterrupt:
        return


def _line(event: TailEventsResponse) -> str:
    return f"{when(event.time)}  {event.event_type}  {event.json}"
