"""All messages under a prefix, read once: which are stored, and which are damaged. Its cost follows all that is stored."""

from dataclasses import dataclass, field

from google.protobuf.message import Message

from millstream.errors import DataLoss, NotFound
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.concurrency import in_order


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

    async def look_at(key: str) -> NotFound | DataLoss | None:
        try:
            decode(kind, await blobs.get(key), key)
        except (NotFound, DataLoss) as error:
            return error
        return None

    keys = [listed.key async for listed in blobs.list(prefix) if "/" not in listed.key.removeprefix(prefix)]
    errors = [error async for error in in_order(look_at, keys)]
    for key, error in zip(keys, errors, strict=True):
        if error is None:
            found.intact.append(key.removeprefix(prefix))
        elif isinstance(error, DataLoss):  # and not listed in vain (Blobs.list)
            found.damaged[key.removeprefix(prefix)] = error
    return found
