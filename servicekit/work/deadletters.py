"""Dead letters: messages that could not be parsed, and how operators resolved them.

A dead letter is a message on the topic `<group>.dlq` with the original bytes, headers and position; of one that is too large
for that, its beginning, size and digest. Its resolution is one object, `dead-letters/{group}/{id}`, put if absent; a dead
letter without one is open. So every replica gives the same answer, and a process that dies on the way loses nothing.
"""

import asyncio
import base64
import hashlib
import logging
import re
from bisect import insort
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, TypeAlias, TypeVar

from millstream.defaults import BY_NAME, dead_letters_of
from millstream.errors import DataLoss, FailedPrecondition, InvalidArgument, MillstreamError, NotFound, Unavailable
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.states import word_of
from millstream.timestamps import now
from servicekit import metrics
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.blobs.stored_names import StoredNames
from servicekit.bus.port import MAX_VALUE, Bus, Message, Received
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.limits import PAGE_BYTES
from servicekit.paging import page_size, wrong_token

log = logging.getLogger(__name__)
T = TypeVar("T")
Action: TypeAlias = "DeadLetterResolution.Action.ValueType"
Place = tuple[str, int, int]
Order = tuple[int, int, int, int]
BUS_SECONDS = 10.0
MOST_HEADER_BYTES = 16 << 10
"""Bytes of key and headers together that a letter keeps whole."""
CUT_VALUE, CUT_TEXT, CUT_HEADERS = 64 << 10, 200, 32
"""What a letter keeps of a message that is too large: bytes of its value, of each other text, and the number of headers."""
LONGEST_REASON = 1000
_HEADER_PREFIX = "dlq_"
_ID = re.compile("[0-9a-f]{32}")


class DeadLetters:
    """The dead letters of one consumer group."""

    def __init__(self, blobs: Blobs, bus: Bus, group: str) -> None:
        self.blobs, self.bus, self.group = blobs, bus, group
        self.topic = dead_letters_of(group)
        self._resolved = StoredNames(blobs, self._key(""))

    async def add(self, message: Received, reason: str) -> None:
        """Publish a message as a dead letter. Idempotent: the same message is the same letter. Raises Unavailable.

        No message is too large to become one: a bus takes whatever _fitting() returns.
        """
        metrics.EVENTS_DEAD.inc()
        log.error("message dead-lettered", extra={"topic": message.topic, "offset": message.offset, "reason": reason})
        more = {
            "dlq_topic": message.topic,
            "dlq_partition": str(message.partition),
            "dlq_offset": str(message.offset),
            "dlq_reason": reason[:LONGEST_REASON],
            "dlq_time": now().ToJsonString(),
        }
        kept = _fitting(message)
        if kept is not message:
            more |= {"dlq_size": str(len(message.value)), "dlq_sha256": hashlib.sha256(message.value).hexdigest()}
        headers = {**kept.headers, **{name: text.encode(errors="replace") for name, text in more.items()}}
        await self.bus.publish(Message(self.topic, kept.key, kept.value, headers))

    async def is_resolved(self, message: Received) -> bool:
        """Whether an operator has resolved the dead letter of this message; False also while the store is unavailable."""
        place = (message.topic, message.partition, message.offset)
        try:
            return await self.blobs.exists(self._key(hash_of(self.topic, *place, _fitting(message).value)))
        except MillstreamError:
            return False

    async def page(self, size: int, token: str, show_resolved: bool) -> tuple[Sequence[DeadLetter], str]:
        """The dead letters after the token's, oldest first, and the next page's token ("" after the last).

        Reads the whole topic, and holds one page in memory. Raises InvalidArgument, Unavailable.
        """
        size, after = page_size(size), _order_of(token)
        found, more = list[DeadLetter](), False
        resolved = set(await self._resolved.all())
        async with aclosing(self._letters()) as letters:
            async for letter in letters:
                if _order(letter) > after and (show_resolved or letter.id not in resolved):
                    insort(found, letter, key=_order)
                    more |= _cut(found, size)
        for letter in found:
            if letter.id in resolved:
                letter.resolution.CopyFrom(await self._shown_resolution(letter.id))
        return found, _token_of(found[-1]) if more else ""

    async def find(self, letter_id: str) -> DeadLetter:
        """One dead letter with its resolution, if any. Raises NotFound, Unavailable."""
        _check_id(letter_id)
        async with aclosing(self._letters()) as letters:
            async for letter in letters:
                if letter.id == letter_id:
                    with suppress(NotFound):
                        letter.resolution.CopyFrom(await self._shown_resolution(letter_id))
                    return letter
        text = f"{self.topic} has no letter {letter_id}: `millstream dlq list {self.group}` shows those that it has"
        raise NotFound(text, letter=letter_id)

    async def replay(self, letter_id: str, actor: str, note: str) -> DeadLetterResolution:
        """Publish the original message on its topic again, then store the resolution.

        A process that dies in between publishes it twice. Raises NotFound, FailedPrecondition, Unavailable.
        """
        replayed = DeadLetterResolution.ACTION_REPLAYED
        if done := await self._done(letter_id, replayed):
            return done
        letter = await self.find(letter_id)
        if letter.original_topic not in BY_NAME:
            text = f"letter {letter_id} names no topic of this platform, so it cannot be replayed: drop it"
            raise FailedPrecondition(text, letter=letter_id)
        if letter.original_digest:
            text = f"letter {letter_id} holds only the beginning of a message of {letter.original_size_bytes:,} bytes"
            raise FailedPrecondition(f"{text}, so it cannot be replayed: drop it", letter=letter_id)
        message = Message(letter.original_topic, letter.key.decode(), letter.value, dict(letter.headers))
        await _with_timeout(self.bus.publish(message))
        failpoint("operations.replayed")
        return await self._resolve(letter_id, replayed, actor, note)

    async def drop(self, letter_id: str, actor: str, note: str) -> DeadLetterResolution:
        """Resolve a dead letter without replaying it. Raises NotFound, FailedPrecondition, Unavailable."""
        dropped = DeadLetterResolution.ACTION_DROPPED
        if done := await self._done(letter_id, dropped):
            return done
        await self.find(letter_id)
        return await self._resolve(letter_id, dropped, actor, note)

    async def _done(self, letter_id: str, action: Action) -> DeadLetterResolution | None:
        """The resolution by that action; None: not resolved. Raises FailedPrecondition when it was another action."""
        _check_id(letter_id)
        try:
            done = await self._resolution(letter_id)
        except NotFound:
            return None
        if done.action != action:
            action_name, time = _action_name(done.action), done.time.ToJsonString()
            text = f"letter {letter_id} was {action_name} by {done.actor} at {time}, which is final"
            raise FailedPrecondition(text, letter=letter_id)
        return done

    async def _resolve(self, letter_id: str, action: Action, actor: str, note: str) -> DeadLetterResolution:
        resolution = DeadLetterResolution(action=action, actor=actor, note=note, time=now())
        if await self.blobs.put_if_absent(self._key(letter_id), resolution.SerializeToString(deterministic=True)):
            log.info(
                "dead letter resolved", extra={"letter": letter_id, "action": _action_name(action), "actor": actor}
            )
            return resolution
        done = await self._done(letter_id, action)
        return done or resolution

    async def _resolution(self, letter_id: str) -> DeadLetterResolution:
        """Raises NotFound, DataLoss."""
        key = self._key(letter_id)
        return decode(DeadLetterResolution, await self.blobs.get(key), key)

    async def _shown_resolution(self, letter_id: str) -> DeadLetterResolution:
        """As _resolution(); of a damaged one the note says so."""
        try:
            return await self._resolution(letter_id)
        except DataLoss as error:
            return DeadLetterResolution(note=error.text)

    def _key(self, letter_id: str) -> str:
        return f"dead-letters/{self.group}/{letter_id}"

    async def _letters(self) -> AsyncGenerator[DeadLetter, None]:
        """Each dead letter once, also when it was published twice."""
        seen: set[str] = set()
        tail = self.bus.tail([self.topic], from_start=True)
        try:
            await _with_timeout(tail.start())
            while await _with_timeout(tail.lag()):
                for message in await _with_timeout(tail.batch()):
                    letter = _letter(message)
                    if letter.id not in seen:
                        seen.add(letter.id)
                        yield letter
        finally:
            with suppress(MillstreamError):
                await _with_timeout(tail.close())


async def _with_timeout(request: "Coroutine[Any, Any, T]") -> T:
    """The bus's answer. Raises Unavailable after BUS_SECONDS, so that an operator never waits for a dead broker."""
    try:
        async with asyncio.timeout(BUS_SECONDS):
            return await request
    except TimeoutError:
        text = f"the bus has not answered for {BUS_SECONDS:g} s: see `millstream status`"
        raise Unavailable(text) from None


def _letter(message: Received) -> DeadLetter:
    headers = {name: value for name, value in message.headers.items() if not name.startswith(_HEADER_PREFIX)}
    letter = DeadLetter(topic=message.topic, partition=message.partition, offset=message.offset, headers=headers)
    letter.key, letter.value = message.key.encode(), message.value
    letter.reason = message.headers.get("dlq_reason", b"").decode(errors="replace")
    with suppress(ValueError):
        letter.time.FromJsonString(message.headers.get("dlq_time", b"").decode(errors="replace"))
    letter.original_digest = message.headers.get("dlq_sha256", b"").decode(errors="replace")
    with suppress(ValueError):
        letter.original_size_bytes = min(int(message.headers.get("dlq_size", b"0")), 1 << 62)
    origin = _origin(message.headers)
    if origin:
        letter.original_topic, letter.original_partition, letter.original_offset = origin
    letter.id = hash_of(message.topic, *(origin or (message.partition, message.offset)), message.value)
    return letter


def _fitting(message: Received) -> Received:
    """The message itself if a letter can hold all of it, else one that is cut."""
    around = len(message.key.encode()) + sum(len(name.encode()) + len(value) for name, value in message.headers.items())
    if len(message.value) <= MAX_VALUE and around <= MOST_HEADER_BYTES:
        return message
    headers = {name[:CUT_TEXT]: value[:CUT_TEXT] for name, value in list(message.headers.items())[:CUT_HEADERS]}
    return replace(message, key=message.key[:CUT_TEXT], value=message.value[:CUT_VALUE], headers=headers)


def _origin(headers: Mapping[str, bytes]) -> Place | None:
    """The original message's position; None: no consumer of this platform wrote the letter."""
    try:
        topic = headers["dlq_topic"].decode()
        partition, offset = int(headers["dlq_partition"]), int(headers["dlq_offset"])
    except (KeyError, ValueError):
        return None
    return (topic, partition, offset) if 0 <= partition < 1 << 31 and 0 <= offset < 1 << 63 else None


def _action_name(action: Action) -> str:
    return word_of(DeadLetterResolution.Action, action)


def _check_id(letter_id: str) -> None:
    if not _ID.fullmatch(letter_id):
        raise InvalidArgument(
            f"{letter_id!r} is no letter's id: 32 hex digits, as `millstream dlq list` shows", field="id"
        )


def _order(letter: DeadLetter) -> Order:
    return letter.time.seconds, letter.time.nanos, letter.partition, letter.offset


def _cut(letters: list[DeadLetter], size: int) -> bool:
    """Cut the list to what one page may hold, at least one, which is always smaller; True: something was cut off."""
    total = 0
    for number, letter in enumerate(letters):
        total += letter.ByteSize()
        if number == size or (number and total > PAGE_BYTES):
            del letters[number:]
            return True
    return False


def _token_of(letter: DeadLetter) -> str:
    return base64.urlsafe_b64encode(" ".join(map(str, _order(letter))).encode()).decode()


def _order_of(token: str) -> Order:
    """The position after which a page begins. Raises InvalidArgument for a token of no page."""
    if not token:
        return (-1, 0, 0, 0)
    try:
        seconds, nanos, partition, offset = map(int, base64.urlsafe_b64decode(token).decode().split())
    except ValueError:
        raise wrong_token() from None
    return seconds, nanos, partition, offset
