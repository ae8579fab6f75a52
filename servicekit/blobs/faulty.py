"""A store with an injected fault (TEST_BLOBS), to test that work goes on beside it."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeVar

from servicekit.blobs.port import Blobs, Listed

B = TypeVar("B", bound=Blobs)


def list_in_vain(blobs: B, keys: Callable[[], Iterable[str]]) -> B:
    """The store, whose listings from now on also show these keys, which were never stored (see Blobs.list)."""
    list_stored = blobs.list

    async def list_all(prefix: str, after: str = "") -> AsyncIterator[Listed]:
        found = {listed.key: listed async for listed in list_stored(prefix, after)}
        for key in keys():
            if key.startswith(prefix) and key > after:
                found.setdefault(key, Listed(key, 0, 0.0))
        for key in sorted(found):
            yield found[key]

    async def children(prefix: str) -> AsyncIterator[str]:
        names = {listed.key.removeprefix(prefix).partition("/")[0] async for listed in list_all(prefix)}
        for name in sorted(names):
            yield name

    blobs.list = list_all  # type: ignore[method-assign]
    blobs.children = children  # type: ignore[method-assign]
    return blobs
