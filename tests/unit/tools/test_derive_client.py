"""The sync client is derived from the asyncio client."""

from pathlib import Path

from tools.derive_client import derived

AIO = '''"""Things."""

import asyncio
from collections.abc import AsyncIterator

from millstream.client.aio.pages import pages
from millstream.client.shared import PAGE


class Things(Connection):
    """Calls things."""

    async def thing(self, name: str) -> Thing:
        """One."""
        return await self._things.Get(name)

    async def things(self) -> AsyncIterator[Thing]:
        async for page in pages(self._things.List, request):
            for found in page.things:
                yield found
        await asyncio.sleep(1)
'''
SYNC = '''# Derived from aio/things.py by `python tools/derive_client.py`: do not edit.
"""Things."""

import time
from collections.abc import Iterator

from millstream.client.shared import PAGE
from millstream.client.sync.pages import pages


class Things(Connection):
    """Calls things."""

    def thing(self, name: str) -> Thing:
        """One."""
        return self._things.Get(name)

    def things(self) -> Iterator[Thing]:
        for page in pages(self._things.List, request):
            yield from page.things
        time.sleep(1)
'''


def test_async_code_becomes_sync_code_with_sorted_imports(tmp_path: Path) -> None:
    source = tmp_path / "aio"
    source.mkdir()
    (source / "things.py").write_text(AIO)
    assert derived(source, tmp_path / "sync") == {tmp_path / "sync/things.py": SYNC}


def test_no_async_word_is_left_in_the_client() -> None:
    for path, text in derived().items():
        assert "await " not in text and "async " not in text and "Async" not in text, path
