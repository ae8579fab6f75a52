"""Facts as messages: CloudEvents 1.0 in binary mode (Kafka protocol binding), the value being protobuf.

Each event is a field of its topic's wrapper message, so that a reader knows its type without headers too.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from millstream.defaults import BY_NAME, topic_of
from millstream.trace import traceparent
from servicekit.bus.port import Message, Received


class Malformed(Exception):
    """The message cannot be parsed, or breaks the contract: it becomes a dead letter."""


class NewerEvent(Exception):
    """An event of a type that only a later version knows: counted and skipped, no error."""


@dataclass(frozen=True)
class Event:
    """A fact as received: `event_type` is the full name of its message, `time` RFC 3339 text or empty."""

    event_id: str
    event_type: str
    key: str
    time: str
    traceparent: str
    fact: Proto


def to_message(fact: Proto, key: str, event_id: str, source: str) -> Message:
    """The bus message of a fact. Give the same fact the same `event_id` however often it is published."""
    event_type = fact.DESCRIPTOR.full_name
    topic = topic_of(event_type)
    wrapper = topic.message()
    field = next(f for f in wrapper.DESCRIPTOR.fields if f.message_type is fact.DESCRIPTOR)
    getattr(wrapper, field.name).CopyFrom(fact)
    headers = {
        "ce_specversion": "1.0",
        "ce_id": event_id,
        "ce_type": event_type,
        "ce_source": f"/millstream/{source}",
        "ce_time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "content-type": "application/protobuf",
        "traceparent": traceparent(),
    }
    return Message(
        topic.name, key, wrapper.SerializeToString(), {name: value.encode() for name, value in headers.items()}
    )


def from_message(message: Received) -> Event:
    """The fact in a bus message. Raises Malformed or NewerEvent."""
    headers = {name: value.decode(errors="replace") for name, value in message.headers.items()}
    missing = [name for name in ("ce_specversion", "ce_id", "ce_type", "ce_source") if not headers.get(name)]
    if missing:
        raise Malformed(f"headers missing: {', '.join(missing)}")
    if headers["ce_specversion"] != "1.0":
        raise NewerEvent(f"CloudEvents {headers['ce_specversion']}")
    wrapper = BY_NAME[message.topic].message()
    try:
        wrapper.ParseFromString(message.value)
    except DecodeError as error:
        raise Malformed(f"the value is no {wrapper.DESCRIPTOR.full_name}: {error}") from error
    case = wrapper.WhichOneof("event")
    if case is None:
        raise NewerEvent(headers["ce_type"])
    fact: Proto = getattr(wrapper, case)
    if fact.DESCRIPTOR.full_name != headers["ce_type"]:
        raise Malformed(f"ce_type says {headers['ce_type']}, the value holds {fact.DESCRIPTOR.full_name}")
    time, trace = headers.get("ce_time", ""), headers.get("traceparent", "")
    return Event(headers["ce_id"], headers["ce_type"], message.key, time, trace, fact)
