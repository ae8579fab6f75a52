"""`millstream dlq`."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any

import typer
from google.protobuf.message import DecodeError

from millstream.cli.command import Cli, command
from millstream.cli.format import resolution_line, when
from millstream.cli.output import Cells, as_dict
from millstream.dataset.v1.events_pb2 import DatasetEvent
from millstream.evaluation.v1.events_pb2 import EvaluationEvent
from millstream.inference.v1.events_pb2 import InferenceEvent
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.registry.v1.events_pb2 import RegistryEvent
from millstream.training.v1.events_pb2 import TrainingEvent

app = typer.Typer(name="dlq", help="Dead letters: messages that a service could not parse.", no_args_is_help=True)

WRAPPERS = {
    kind.DESCRIPTOR.file.package: kind
    for kind in (DatasetEvent, EvaluationEvent, InferenceEvent, RegistryEvent, TrainingEvent)
}
"""What a message of a topic should be."""

Service = Annotated[str, typer.Argument(help="dataprep, trainer, evaluator, registry or inference")]
Ids = Annotated[list[str] | None, typer.Argument(help="the letters' ids")]
Every = Annotated[bool, typer.Option("--all", help="every letter that nobody has dealt with")]


@command(app, "list")
def list_letters(
    cli: Cli,
    service: Service,
    show_resolved: Annotated[bool, typer.Option("--all", help="also those replayed or dropped")] = False,
) -> None:
    """Letters that nobody has dealt with, oldest first."""
    cli.screen.many(cli.client.dead_letters(service, show_resolved), _resolved if show_resolved else _open)


def _open(letter: DeadLetter) -> Cells:
    return {
        "id": letter.id,
        "time": when(letter.time),
        "place": _place(letter),
        "key": letter.key.decode(errors="replace"),
        "bytes": len(letter.value),
        "reason": letter.reason,
    }


def _resolved(letter: DeadLetter) -> Cells:
    done = resolution_line(letter.resolution) if letter.HasField("resolution") else "-"
    return {**_open(letter), "done": done}


def _place(letter: DeadLetter) -> str:
    if not letter.original_topic:
        return "unknown"
    return f"{letter.original_topic}/{letter.original_partition}@{letter.original_offset}"


@command(app, "show")
def show(cli: Cli, service: Service, letter_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """A letter: why it is dead, where it came from, its headers and its bytes."""
    letter = cli.client.dead_letter(service, letter_id)
    event = _event(letter)
    lines = [
        f"letter {letter.id} of {service}, {when(letter.time)}",
        f"reason: {letter.reason}",
        f"from: {_place(letter)}, key {letter.key.decode(errors='replace')!r}",
        *(f"header {name}: {value.decode(errors='replace')}" for name, value in sorted(letter.headers.items())),
    ]
    shown = f"no event: {letter.value.hex()}" if event is None else json.dumps(event, ensure_ascii=False)
    lines.append(f"value, {len(letter.value)} bytes, {shown}")
    if letter.HasField("resolution"):
        lines.append(resolution_line(letter.resolution))
    more = {"value_hex": letter.value.hex()} if event is None else {"event": event}
    cli.screen.one({**as_dict(letter), **more}, "\n".join(lines))


def _event(letter: DeadLetter) -> Mapping[str, Any] | None:
    """The value as the event that its topic would have; None where it is none."""
    kind = WRAPPERS.get(letter.original_topic)
    if kind is None:
        return None
    wrapper = kind()
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
    note: Annotated[str, typer.Option(help="kept with what was done")] = "",
) -> None:
    """Publish the original messages again, where they came from. One that still cannot be parsed is a new letter."""
    _each(cli, service, ids, every, lambda letter_id: cli.client.replay_dead_letter(service, letter_id, note))


@command(app, "drop")
def drop(
    cli: Cli,
    service: Service,
    reason: Annotated[str, typer.Option(help="why nothing is lost by it")],
    ids: Ids = None,
    every: Every = False,
) -> None:
    """Say for good that letters need nothing more."""
    _each(cli, service, ids, every, lambda letter_id: cli.client.drop_dead_letter(service, letter_id, reason))


def _each(
    cli: Cli, service: str, ids: list[str] | None, every: bool, do: Callable[[str], DeadLetterResolution]
) -> None:
    """Stops at the first that fails; asked again it goes on from there."""
    if bool(ids) == every:
        raise typer.BadParameter("name letters by their ids, or all of them by --all")
    # The listing first, as a whole: a replayed message may come back as a new letter.
    wanted = [letter.id for letter in cli.client.dead_letters(service)] if every else ids or []

    def done() -> Iterator[dict[str, Any]]:
        for letter_id in wanted:
            resolution = do(letter_id)
            yield {"id": letter_id, **as_dict(resolution), "text": resolution_line(resolution)}

    last = cli.screen.stream(done(), lambda one: f"{one['id']} {one['text']}")
    if last is None and not cli.screen.as_json:
        print(f"{service} has no dead letters")
