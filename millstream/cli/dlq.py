"""`millstream dlq`."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer
from google.protobuf.message import DecodeError

from millstream.cli.command import Cli, command
from millstream.cli.format import resolution_line, when
from millstream.cli.output import Cells, as_dict, write
from millstream.defaults import BY_NAME
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from millstream.operations.v1.stored_pb2 import DeadLetterResolution

app = typer.Typer(name="dlq", help="Dead letters: messages that a service could not parse.", no_args_is_help=True)

Service = Annotated[str, typer.Argument(help="dataprep, trainer, evaluator, registry or inference")]
Ids = Annotated[list[str] | None, typer.Argument(help="the letters' ids")]
Every = Annotated[bool, typer.Option("--all", help="every letter without a resolution")]


@command(app, "list")
def list_letters(
    cli: Cli,
    service: Service,
    show_resolved: Annotated[bool, typer.Option("--all", help="also those replayed or dropped")] = False,
) -> None:
    """Letters that were neither replayed nor dropped, oldest first."""
    cli.screen.many(
        cli.client.dead_letters(service, show_resolved), _resolved_cells if show_resolved else _unresolved_cells
    )


def _unresolved_cells(letter: DeadLetter) -> Cells:
    return {
        "id": letter.id,
        "time": when(letter.time),
        "origin": _origin(letter),
        "key": letter.key.decode(errors="replace"),
        "bytes": letter.original_size_bytes or len(letter.value),
        "reason": letter.reason,
    }


def _resolved_cells(letter: DeadLetter) -> Cells:
    done = resolution_line(letter.resolution) if letter.HasField("resolution") else "-"
    return {**_unresolved_cells(letter), "resolution": done}


def _origin(letter: DeadLetter) -> str:
    if not letter.original_topic:
        return "unknown"
    return f"{letter.original_topic}/{letter.original_partition}@{letter.original_offset}"


@command(app, "show")
def show(cli: Cli, service: Service, letter_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """A letter: why it could not be parsed, its original topic, headers and bytes."""
    letter = cli.client.dead_letter(service, letter_id)
    event = _event(letter)
    lines = [
        f"letter {letter.id} of {service}, {when(letter.time)}",
        f"reason: {letter.reason}",
        f"from: {_origin(letter)}, key {letter.key.decode(errors='replace')!r}",
        *(f"header {name}: {value.decode(errors='replace')}" for name, value in sorted(letter.headers.items())),
    ]
    shown = f"no event: {letter.value.hex()}" if event is None else json.dumps(event, ensure_ascii=False)
    lines.append(f"value, {len(letter.value)} bytes, {shown}")
    if letter.original_digest:
        whole = f"{letter.original_size_bytes:,} bytes, sha256 {letter.original_digest}"
        lines.append(f"cut: the message had {whole}; it cannot be replayed")
    if letter.HasField("resolution"):
        lines.append(resolution_line(letter.resolution))
    more = {"value_hex": letter.value.hex()} if event is None else {"event": event}
    cli.screen.one({**as_dict(letter), **more}, "\n".join(lines))


def _event(letter: DeadLetter) -> Mapping[str, Any] | None:
    """The value parsed as an event of its original topic; None where it is none."""
    topic = BY_NAME.get(letter.original_topic)
    if topic is None:
        return None
    wrapper = topic.message()
    try:
        wrapper.ParseFromString(letter.value)
    except DecodeError:
        return None
    return as_dict(wrapper) if wrapper.WhichOneof("event") else None


@command(app, "replay")
def replay(
    cli: Cli,
    service: Service,
    ids: Ids = None,
    every: Every = False,
    note: Annotated[str, typer.Option(help="kept with the resolution")] = "",
) -> None:
    """Publish the original messages to their own topics again. One that still cannot be parsed is a new letter."""
    _each(cli, service, ids, every, lambda letter_id: cli.client.replay_dead_letter(service, letter_id, note))


@command(app, "drop")
def drop(
    cli: Cli,
    service: Service,
    reason: Annotated[str, typer.Option(help="why nothing is lost by it")],
    ids: Ids = None,
    every: Every = False,
) -> None:
    """Resolve letters without publishing them, for good."""
    _each(cli, service, ids, every, lambda letter_id: cli.client.drop_dead_letter(service, letter_id, reason))


def _each(
    cli: Cli, service: str, ids: list[str] | None, every: bool, resolve: Callable[[str], DeadLetterResolution]
) -> None:
    """Resolve letter after letter. Stops at the first failure; a second run continues there."""
    if bool(ids) == every:
        raise typer.BadParameter("give ids of letters, or --all")
    # The listing first, as a whole: a replayed message may come back as a new letter.
    wanted = [letter.id for letter in cli.client.dead_letters(service)] if every else ids or []

    def resolved() -> Iterator[dict[str, Any]]:
        for letter_id in wanted:
            resolution = resolve(letter_id)
            yield {"id": letter_id, **as_dict(resolution), "text": resolution_line(resolution)}

    last = cli.screen.stream(resolved(), lambda one: f"{one['id']} {one['text']}")
    if last is None and not cli.screen.as_json:
        write(f"{service} has no dead letters")
