"""What today's code reads from a sample, as JSON, with the functions that the services use."""

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto
from google.protobuf.unknown_fields import UnknownFieldSet

from millstream.defaults import BY_NAME, dead_letters_of
from millstream.errors import DataLoss
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.bus.port import Message, Received
from servicekit.facts.events import Malformed, NewerEvent, from_message
from servicekit.facts.ledger import read_entry
from servicekit.work.deadletters import DeadLetters
from tests.contract.old_messages.kept import Corpus, place
from tests.contract.old_messages.kinds import Kind, kind_of


class Unreadable(Exception):
    """Today's code cannot read a sample; the text says why."""


def wrong_in(corpus: Corpus) -> list[str]:
    """One line for each value that today's code reads differently from the version that wrote it."""
    samples: list[tuple[str, Callable[[], Any]]] = [
        *((key, partial(of_object, key, data)) for key, data in corpus.objects.items()),
        *((place(message), partial(of_message, message)) for message in corpus.messages),
    ]
    found = [
        f"{name}: there is an answer and no sample" for name in corpus.answers.keys() - {name for name, _ in samples}
    ]
    for name, read in samples:
        try:
            found += [f"{name}: {change}" for change in changes(corpus.answers.get(name), read())]
        except Unreadable as error:
            found.append(f"{name}: {error}")
    return found


def of_object(key: str, data: bytes) -> Any:
    """The answer to an object; None for one that holds no message of ours. Raises Unreadable."""
    kind = kind_of(key)
    if kind is None:
        raise Unreadable(f"no kind of object is called {key} any more: kinds.py must still describe what was written")
    if kind.message is None:
        return None
    try:
        if not kind.in_ledger:
            return _json(parsed(kind, data))
        entry = read_entry(data, kind.message, key)
    except (DecodeError, DataLoss) as error:
        raise Unreadable(f"it is no {kind.message.DESCRIPTOR.full_name}: {error}") from error
    head = {"number": entry.number, "request_id": entry.request_id, "time_ns": entry.time_ns, "actor": entry.actor}
    return {**head, "message": _json(entry.message)}


def of_message(message: Received) -> Any:
    """The answer to a message of the bus, which may be a dead letter. Raises Unreadable."""
    if message.topic not in BY_NAME:
        return _json(asyncio.run(letter(message)))
    try:
        event = from_message(message)
    except (Malformed, NewerEvent) as error:
        raise Unreadable(f"it is no event of {message.topic}: {error}") from error
    head = {"id": event.event_id, "type": event.event_type, "key": event.key, "time": event.time}
    return {**head, "fact": _json(event.fact)}


async def letter(message: Received) -> DeadLetter:
    """A dead letter as an operator sees it. Raises Unreadable."""
    bus = MemoryBus()
    await bus.publish(Message(message.topic, message.key, message.value, message.headers))
    shown, _ = await DeadLetters(MemoryBlobs(), bus, message.topic.removesuffix(dead_letters_of(""))).page(1, "", True)
    if not shown:
        raise Unreadable(f"it is no letter of {message.topic}")
    return shown[0]


def parsed(kind: Kind, data: bytes) -> Proto:
    """The message that an object holds, out of its ledger entry."""
    assert kind.message
    if kind.in_ledger:
        return read_entry(data, kind.message, kind.pattern).message
    message = kind.message()
    message.ParseFromString(data)
    return message


def inside(message: Proto) -> Iterator[Proto]:
    """A message and every message that it holds."""
    yield message
    for field, value in message.ListFields():
        if not field.message_type or isinstance(message, Packed):
            continue
        if field.message_type.GetOptions().map_entry:
            held = [one for one in value.values() if isinstance(one, Proto)]
        else:
            held = list(value) if field.is_repeated else [value]
        for one in held:
            yield from inside(one)


def _json(message: Proto) -> Any:
    for one in inside(message):
        unknown = UnknownFieldSet(one)
        if numbers := sorted({unknown[place].field_number for place in range(len(unknown))}):
            raise Unreadable(f"{one.DESCRIPTOR.full_name} has no field {', '.join(map(str, numbers))} any more")
    return MessageToDict(message, preserving_proto_field_name=True)


def changes(before: Any, now: Any, path: str = "") -> Iterator[str]:
    """Where two answers differ, and how, one line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in sorted({*before, *now}):
            yield from changes(before.get(name), now.get(name), f"{path}.{name}")
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from changes(*pair, f"{path}[{place}]")
    elif before != now:
        yield f"{path.removeprefix('.')} was {_shortened(before)}, is {_shortened(now)}"


def _shortened(value: Any) -> str:
    return "absent" if value is None else repr(value)
