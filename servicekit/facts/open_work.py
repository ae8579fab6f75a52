"""Open work: a fact that gives a service something to do stays listed for it until that is done.

Before a fact is stored, a marker `open/{service}/{id}` is put for each service that acts on it (flow.py). The service
deletes its marker once the reconcile of what the fact asks for found nothing left to do. So a resync lists what is open, not
everything that ever was. A marker that was lost, or a fact of a version without markers, is found by a comparison in full.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message as Proto

from millstream.errors import DataLoss, InvalidArgument, NotFound
from millstream.operations.v1.stored_pb2 import OpenMarker
from servicekit.blobs.port import Blobs, Listed, check_key
from servicekit.blobs.stored import decode, unpack
from servicekit.concurrency import in_order
from servicekit.facts.flow import services_that_act_on
from servicekit.facts.markers import delete_orphan, fact_id_of
from servicekit.ids import hash_of

F = TypeVar("F", bound=Proto)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenFact:
    """A fact that a service still has to act on; `fact` is its event, or the stored message itself."""

    fact_id: str
    fact: Proto

    @property
    def marker_id(self) -> str:
        """Names its markers. Of two writers of one object each has markers of its own, since only one fact is stored."""
        return hash_of(self.fact_id, self.fact)


async def open_work_on(blobs: Blobs, key: str, fact: Proto) -> None:
    """Mark the fact, which is about to be stored under `key`, for every service that acts on it. Raises Unavailable."""
    marker = OpenMarker(key=key)
    marker.fact.Pack(fact)
    data = marker.SerializeToString(deterministic=True)
    marker_id = OpenFact(fact_id_of(key), fact).marker_id
    names = [f"open/{service}/{marker_id}" for service in services_that_act_on(fact)]
    await asyncio.gather(*(blobs.put(name, data) for name in names))


class OpenWork:
    """The facts that one service still has to act on."""

    def __init__(self, blobs: Blobs, service: str) -> None:
        self.blobs, self.service = blobs, service
        self._known: dict[str, OpenFact] = {}
        """By key of the marker, as of the last listing: a marker never changes."""
        self.damaged = 0
        """Markers that were damaged, and deleted."""

    async def facts(self) -> list[OpenFact]:
        """Those that are stored, in order of their markers. Raises Unavailable."""
        listed = [one async for one in self.blobs.list(f"open/{self.service}/")]
        new = [one for one in listed if one.key not in self._known]
        known = {one.key: self._known[one.key] for one in listed if one.key in self._known}
        read = [fact async for fact in in_order(self._read, new)]
        known |= {one.key: fact for one, fact in zip(new, read, strict=True) if fact}
        self._known = known
        return [known[key] for key in sorted(known)]

    async def of_kind(self, kind: type[F], key_of: Callable[[F], str]) -> list[F]:
        """The facts of one kind, without those that name another object than `key_of` says. Raises Unavailable."""
        found = [(one.fact_id, one.fact) for one in await self.facts()]
        return [fact for fact_id, fact in found if isinstance(fact, kind) and fact_id == fact_id_of(key_of(fact))]

    async def done(self, marker_id: str) -> None:
        """The service has acted on the fact. Idempotent. Raises Unavailable."""
        await self.blobs.delete(f"open/{self.service}/{marker_id}")

    async def _read(self, marker: Listed) -> OpenFact | None:
        """None: its fact is not stored yet, another replica was faster, or only a later version can read it."""
        try:
            found = decode(OpenMarker, await self.blobs.get(marker.key), marker.key)
            name = found.fact.TypeName()
            kind = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(name))
            fact = unpack(kind, found.fact, marker.key)
            check_key(found.key)
        except (NotFound, KeyError):
            return None
        except (DataLoss, InvalidArgument) as error:
            # What it stood for is found by a comparison in full: nobody can restore it, and nobody needs to.
            log.error("open marker damaged: deleted", extra={"marker": marker.key, "error": error.text})
            await self.blobs.delete(marker.key)
            self.damaged += 1
            return None
        if await self.blobs.exists(found.key):
            return OpenFact(fact_id_of(found.key), fact)
        await delete_orphan(self.blobs, self.service, marker)
        return None
