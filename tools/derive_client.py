"""Derives millstream/client/sync/ from millstream/client/aio/: the same methods without async and await.

`python tools/derive_client.py` writes the files; a test proves that they are fresh.
"""

import re
from pathlib import Path

CLIENT = Path(__file__).resolve().parents[1] / "millstream/client"
SOURCE, TARGET = CLIENT / "aio", CLIENT / "sync"
HEADER = "# Derived from {name} by `python tools/derive_client.py`: do not edit.\n"
REPLACEMENTS = (
    ("The client for asyncio.", "The client for threads."),
    ("millstream.client.aio", "millstream.client.sync"),
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
    ("AsyncStub", "Stub"),
    ("__aenter__", "__enter__"),
    ("__aexit__", "__exit__"),
    ("open_channel", "open_sync_channel"),
    ("aio.Channel", "grpc.Channel"),
    ("from grpc import aio", "import grpc"),
    ("asyncio.sleep", "time.sleep"),
    ("import asyncio", "import time"),
    ("check_loop, ", ""),
)
# Lines with this remark, and a blank one after them.
_ASYNCIO_ONLY = re.compile(r"(?:^.*  # asyncio only\n)+\n?", re.MULTILINE)
# A block of imports from this package.
_IMPORT = r"from (millstream\.\S+) import (?:\([^)]*\)|[^\n(]*)\n"
_IMPORTS = re.compile(f"^(?:{_IMPORT})+", re.MULTILINE)
# A loop that only yields becomes `yield from`.
_PASSED_ON = re.compile(r"^( *)for (\w+) in (.*):\n +yield \2\n", re.MULTILINE)


def derived(source: Path = SOURCE, target: Path = TARGET) -> dict[Path, str]:
    """The text of each file of sync/, by its path; one for each file of aio/."""
    return {
        target / path.name: HEADER.format(name=path.relative_to(source.parent)) + _derive(path)
        for path in source.glob("*.py")
    }


def _derive(path: Path) -> str:
    text = _ASYNCIO_ONLY.sub("", path.read_text())
    for old, new in REPLACEMENTS:
        text = text.replace(old, new)
    text = _IMPORTS.sub(lambda block: "".join(_in_order(block[0])), text)
    return _PASSED_ON.sub(r"\1yield from \3\n", text)


def _in_order(imports: str) -> list[str]:
    """The import statements, sorted by their modules, whose names have changed."""
    found = re.finditer(_IMPORT, imports)
    return [statement[0] for statement in sorted(found, key=lambda statement: statement[1])]


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for file, text in derived().items():
        file.write_text(text)
