"""Derives blocking/ from asynchronous/: the same methods without async and await.

`python millstream/client/derive.py` writes the files; a test proves that they are fresh.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
SOURCE, TARGET = HERE / "asynchronous", HERE / "blocking"
HEADER = "# Derived from {name} by `python millstream/client/derive.py`: do not edit.\n"
REPLACEMENTS = (
    ("The client for asyncio.", "The client for threads."),
    ("millstream.client.asynchronous", "millstream.client.blocking"),
    ("async def ", "def "),
    ("async for ", "for "),
    ("await ", ""),
    (
        "from collections.abc import AsyncIterator, Awaitable, Callable",
        "from collections.abc import Callable, Iterator",
    ),
    ("Awaitable[P]", "P"),
    ("AsyncIterator", "Iterator"),
    ("AsyncClient", "Client"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("open_channel", "open_sync_channel"),
    ("aio.Channel", "grpc.Channel"),
    ("from grpc import aio", "import grpc"),
    ("asyncio.sleep", "time.sleep"),
    ("import asyncio", "import time"),
)
# What only passes things on.
_PASSED_ON = re.compile(r"^( *)for (\w+) in (.*):\n +yield \2\n", re.MULTILINE)


def derived() -> dict[Path, str]:
    """The text of each file of blocking/."""
    return {
        TARGET / path.name: HEADER.format(name=path.relative_to(HERE)) + _derive(path) for path in SOURCE.glob("*.py")
    }


def _derive(path: Path) -> str:
    text = path.read_text()
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    return _PASSED_ON.sub(r"\1yield from \3\n", text)


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for file, text in derived().items():
        file.write_text(text)
