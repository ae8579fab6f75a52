"""All messages under a prefix, read once: which are stored, and which are damaged. Its cost follows all that is stored."""

import asyncio
from dataclasses import dataclass, field

from google.protobuf.message import Message

from millstream.errors import DataLoss, NotFound
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.blobs.stored_names import AT_ONCE


@dataclass
class StoredMessages:
    """The names below a prefix, sorted, whose objects can be decoded; and the error of each other one by its name."""

    intact: list[str] = field(default_factory=list)
    damaged: dict[str, DataLoss] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        """Of all that are stored."""
        return {*self.intact, *self.damaged}


async def stored_messages(blobs: Blobs, prefix: str, kind: type[Message]) -> StoredMessages:
    """Read every object just below a prefix that ends with a slash, and keep none of them. Raises Unavailable."""
    found = StoredMessages()

    async def look_at(key: str) -> None:
        name = key.removeprefix(prefix)
        try:
            decode(kind, await blobs.get(key), key)
        except NotFound:
            return  # it was listed in vain (Blobs.list)
        except DataLoss as error:
            found.damaged[name] = error
        else:
            found.intact.append(name)

    keys = [listed.key async for listed in blobs.list(prefix) if "/" not in listed.key.removeprefix(prefix)]
    for start in range(0, len(keys), AT_ONCE):
        await asyncio.gather(*map(look_at, keys[start : start + AT_ONCE]))
    found.intact.sort()
    return found
