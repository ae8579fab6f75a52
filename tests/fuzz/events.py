"""Messages on the topics of the platform: events with random contents, wrong headers, bytes that are no event."""

import asyncio
import random
from collections.abc import Mapping, Sequence

from millstream.defaults import TOPICS
from servicekit.bus.port import Message
from servicekit.ids import new_id
from tests.fuzz.messages import TEXTS, Messages
from tests.worlds.platform import World

AT_ONCE = 5
HEADERS = ("ce_id", "ce_type", "ce_source", "traceparent")


class Events:
    """Publishes as another program could."""

    def __init__(self, platform: World, names: Mapping[str, Sequence[str]]) -> None:
        self.platform, self.names = platform, names

    def run(self, rng: random.Random) -> str:
        """Publish a few; what they do wrong shows in logs, health and growth."""
        messages = [self._message(rng) for _ in range(AT_ONCE)]

        async def publish() -> None:
            bus = self.platform.bus()
            for message in messages:
                await bus.publish(message)
            await bus.close()

        asyncio.run(publish())
        return ""

    def _message(self, rng: random.Random) -> Message:
        topic = rng.choice(TOPICS)
        made = Messages(rng, self.names)
        value = made.bytes_of(topic.message.DESCRIPTOR)
        kinds = [field.message_type.name for field in topic.message.DESCRIPTOR.fields if field.message_type]
        headers = {
            "ce_id": rng.choice((new_id(), "", "x" * 2000)).encode(),
            "ce_type": f"{topic.name}.{rng.choice([*kinds, 'Nothing'])}".encode(),
            "ce_source": rng.choice(("dataprep", "nobody")).encode(),
        }
        if rng.random() < 0.3:
            headers.pop(rng.choice(list(headers)))
        if rng.random() < 0.2:
            headers[rng.choice(HEADERS)] = rng.randbytes(30)
        key = rng.choice(("words", "toy", *TEXTS[:6])) or "none"
        return Message(topic.name, key, value, headers)
