"""Markers: objects that stand for something to be done about a fact. They are put before it, and deleted once it is done."""

from servicekit.blobs.port import Blobs, Listed
from servicekit.ids import hash_of

ORPHAN_SECONDS = 3600.0
"""After this time without its fact a marker is one of a writer that died before it stored the fact."""


def fact_id_of(key: str) -> str:
    """Names the fact that the object of this key states: in its markers, and as the id of its event."""
    return hash_of(key)


async def delete_orphan(blobs: Blobs, service: str, marker: Listed) -> None:
    """Delete a marker whose fact does not exist, once it is an orphan by the store's own clock. Raises Unavailable."""
    if await store_time(blobs, service) - marker.modified > ORPHAN_SECONDS:
        await blobs.delete(marker.key)


async def store_time(blobs: Blobs, service: str) -> float:
    """The time of the store's own clock, which `modified` in its listings is of. Raises Unavailable."""
    probe = f"clock/{service}"
    await blobs.put(probe, b"")
    async for listed in blobs.list(probe):
        return listed.modified
    return 0.0
