"""Messages that could not be parsed, and what was done with them.

A letter stays where the consumer laid it: on the topic `<group>.dlq`, with its original bytes, headers and place. What an
operator did with it is one object, `dead-letters/{group}/{id}`, put if absent. So a letter is open while it has no such
object: every replica says the same, and whoever dies on the way has lost nothing.
"""

import asyncio
import base64
import logging
import re
from bisect import insort
from collections.abc import AsyncGenerator, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, TypeAlias, TypeVar

from millstream.defaults import BY_NAME, dead_letters_of
from millstream.errors import FailedPrecondition, InvalidArgument, MillstreamError, NotFound, Unavailable
from millstream.operations.v1.operations_service_pb2 import DeadLetter
from millstream.operations.v1.stored_pb2 import DeadLetterResolution
from millstream.states import word_of
from millstream.timestamps import now
from servicekit import metrics
from servicekit.blobs.port import Blobs
from servicekit.bus.port import Bus, Message, Received
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of
from servicekit.paging import page_size

log = logging.getLogger(__name__)
T = TypeVar("T")
Action: TypeAlias = "DeadLetterResolution.Action.ValueType"
Place = tuple[str, int, int]
Order = tuple[int, int, int, int]
ANSWER_SECONDS = 10.0
PAGE_BYTES = 4 << 20
"""What the letters of one page may weigh together; one letter alone is always below it."""
_OURS = "dlq_"
_ID = re.compile("[0-9a-f]{32}")


class DeadLetters:
    """Of one group."""

    def __init__(self, blobs: Blobs, bus: Bus, group: str) -> None:
        self.blobs, self.bus, self.group = blobs, bus, group
        self.topic = dead_letters_of(group)

    async def bury(self, message: Received, reason: str) -> None:
        """Lay a message aside. Done twice, it is the same letter."""
        metrics.EVENTS_DEAD.inc()
        log.error("message dead-lettered", extra={"topic": message.topic, "offset": message.offset, "reason": reason})
        ours = {
            "dlq_topic": message.topic,
            "dlq_partition": str(message.partition),
            "dlq_offset": str(message.offset),
            "dlq_reason": reason,
            "dlq_time": now().ToJsonString(),
        }
        headers = {**message.headers, **{name: text.encode() for name, text in ours.items()}}
        await self.bus.publish(Message(self.topic, message.key, message.value, headers))

    async def is_resolved(self, message: Received) -> bool:
        """Whether an operator has dealt with the letter of this message. False also where the store cannot say."""
        place = (message.topic, message.partition, message.offset)
        try:
            return await self.blobs.exists(self._key(hash_of(self.topic, *place, message.value)))
        except MillstreamError:
            return False

    async def page(self, size: int, token: str, show_resolved: bool) -> tuple[Sequence[DeadLetter], str]:
        """The letters after the token's, oldest first, and the token of the next page ("" after the last).

        The whole topic is read for each page, of which only the page is held. Raises InvalidArgument, Unavailable.
        """
        size, after = page_size(size), _order_of(token)
        found, more = list[DeadLetter](), False
        prefix = self._key("")
        resolved = {listed.key.removeprefix(prefix) async for listed in self.blobs.list(prefix)}
        async with aclosing(self._letters()) as letters:
            async for letter in letters:
                if _order(letter) > after and (show_resolved or letter.id not in resolved):
                    insort(found, letter, key=_order)
                    more |= _cut(found, size)
        for letter in found:
            if letter.id in resolved:
                letter.resolution.CopyFrom(await self._resolution(letter.id))
        return found, _token_of(found[-1]) if more else ""

    async def find(self, letter_id: str) -> DeadLetter:
        """One letter, with what was done with it. Raises NotFound, Unavailable."""
        _check_id(letter_id)
        async with aclosing(self._letters()) as letters:
            async for letter in letters:
                if letter.id == letter_id:
                    with suppress(NotFound):
                        letter.resolution.CopyFrom(await self._resolution(letter_id))
                    return letter
        text = f"{self.topic} has no letter {letter_id}: `millstream dlq list {self.group}` shows those that it has"
        raise NotFound(text, letter=letter_id)

    async def replay(self, letter_id: str, actor: str, note: str) -> DeadLetterResolution:
        """Publish the original message where it came from, then say so. Whoever dies in between replays it twice.

        Raises NotFound, FailedPrecondition, Unavailable.
        """
        replayed = DeadLetterResolution.ACTION_REPLAYED
        if done := await self._done(letter_id, replayed):
            return done
        letter = await self.find(letter_id)
        if letter.original_topic not in BY_NAME:
            text = f"letter {letter_id} does not say from which topic it is: nothing can be replayed; drop it"
            raise FailedPrecondition(text, letter=letter_id)
        message = Message(letter.original_topic, letter.key.decode(), letter.value, dict(letter.headers))
        await _answered(self.bus.publish(message))
        failpoint("operations.replayed")
        return await self._resolve(letter_id, replayed, actor, note)

    async def drop(self, letter_id: str, actor: str, note: str) -> DeadLetterResolution:
        """Say for good that a letter needs nothing more. Raises NotFound, FailedPrecondition, Unavailable."""
        dropped = DeadLetterResolution.ACTION_DROPPED
        if done := await self._done(letter_id, dropped):
            return done
        await self.find(letter_id)
        return await self._resolve(letter_id, dropped, actor, note)

    async def _done(self, letter_id: str, action: Action) -> DeadLetterResolution | None:
        """What was done with the letter already. Raises FailedPrecondition where it was another action."""
        _check_id(letter_id)
        try:
            done = await self._resolution(letter_id)
        except NotFound:
            return None
        if done.action != action:
            text = f"letter {letter_id} was {_word(done.action)} by {done.actor} at {done.time.ToJsonString()}: that stands"
            raise FailedPrecondition(text, letter=letter_id)
        return done

    async def _resolve(self, letter_id: str, action: Action, actor: str, note: str) -> DeadLetterResolution:
        made = DeadLetterResolution(action=action, actor=actor, note=note, time=now())
        if await self.blobs.put_if_absent(self._key(letter_id), made.SerializeToString(deterministic=True)):
            log.info("dead letter resolved", extra={"letter": letter_id, "action": _word(action), "actor": actor})
            return made
        done = await self._done(letter_id, action)
        return done or made

    async def _resolution(self, letter_id: str) -> DeadLetterResolution:
        return DeadLetterResolution.FromString(await self.blobs.get(self._key(letter_id)))

    def _key(self, letter_id: str) -> str:
        return f"dead-letters/{self.group}/{letter_id}"

    async def _letters(self) -> AsyncGenerator[DeadLetter, None]:
        """Each letter once, also where a message that was delivered again was buried again."""
        seen: set[str] = set()
        tail = self.bus.tail([self.topic], from_start=True)
        try:
            await _answered(tail.start())
            while await _answered(tail.lag()):
                for message in await _answered(tail.batch()):
                    letter = _letter(message)
                    if letter.id not in seen:
                        seen.add(letter.id)
                        yield letter
        finally:
            with suppress(MillstreamError):
                await _answered(tail.close())


async def _answered(asked: "Coroutine[Any, Any, T]") -> T:
    """What the bus answers. Raises Unavailable where it does not, so that an operator never waits for a dead one."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await asked
    except TimeoutError:
        text = f"the bus has not answered for {ANSWER_SECONDS:g} s; `millstream status` says what is known about it"
        raise Unavailable(text) from None


def _letter(message: Received) -> DeadLetter:
    headers = {name: value for name, value in message.headers.items() if not name.startswith(_OURS)}
    letter = DeadLetter(topic=message.topic, partition=message.partition, offset=message.offset, headers=headers)
    letter.key, letter.value = message.key.encode(), message.value
    letter.reason = message.headers.get("dlq_reason", b"").decode(errors="replace")
    with suppress(ValueError):
        letter.time.FromJsonString(message.headers.get("dlq_time", b"").decode(errors="replace"))
    origin = _origin(message.headers)
    if origin:
        letter.original_topic, letter.original_partition, letter.original_offset = origin
    letter.id = hash_of(message.topic, *(origin or (message.partition, message.offset)), message.value)
    return letter


def _origin(headers: Mapping[str, bytes]) -> Place | None:
    """Where the message was read first; None for a letter that no consumer of ours wrote."""
    try:
        topic = headers["dlq_topic"].decode()
        partition, offset = int(headers["dlq_partition"]), int(headers["dlq_offset"])
    except (KeyError, ValueError):
        return None
    return (topic, partition, offset) if 0 <= partition < 1 << 31 and 0 <= offset < 1 << 63 else None


def _word(action: Action) -> str:
    return word_of(DeadLetterResolution.Action, action)


def _check_id(letter_id: str) -> None:
    if not _ID.fullmatch(letter_id):
        raise InvalidArgument(
            f"{letter_id!r} is no letter's id: 32 hex digits, as `millstream dlq list` shows", field="id"
        )


def _order(letter: DeadLetter) -> Order:
    return letter.time.seconds, letter.time.nanos, letter.partition, letter.offset


def _cut(letters: list[DeadLetter], size: int) -> bool:
    """Keep what one page may hold, at least one; whether anything was cut off."""
    weight = 0
    for number, letter in enumerate(letters):
        weight += letter.ByteSize()
        if number == size or (number and weight > PAGE_BYTES):
            del letters[number:]
            return True
    return False


def _token_of(letter: DeadLetter) -> str:
    return base64.urlsafe_b64encode(" ".join(map(str, _order(letter))).encode()).decode()


def _order_of(token: str) -> Order:
    """Where a page begins. Raises InvalidArgument for a token that no page gave out."""
    if not token:
        return (-1, 0, 0, 0)
    try:
        seconds, nanos, partition, offset = map(int, base64.urlsafe_b64decode(token).decode().split())
    except ValueError:
        text = "page_token is not from this listing: begin again without one"
        raise InvalidArgument(text, field="page_token") from None
    return seconds, nanos, partition, offset
