"""`millstream datasets import` against dataprep, over loopback: a second import says what becomes of the rows."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.worlds.dataprep import World, lines
from tests.worlds.rpc import serving


async def imported(address: str, file: Path, *words: str, code: int = 0) -> str:
    """What the command prints, on both streams."""
    command = (sys.executable, "-m", "millstream", "datasets", "import", str(file), "-d", "words", *words)
    environment = {**os.environ, "MILLSTREAM_DATAPREP": address}
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, env=environment)
    printed, errors = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == code, (printed + errors).decode()
    return (printed + errors).decode()


def file_of(folder: Path, start: int, stop: int) -> Path:
    path = folder / "words.jsonl"
    path.write_bytes(
        lines({"text": f"row {number}", "label": ("good", "bad")[number % 2]} for number in range(start, stop))
    )
    return path


async def test_a_second_import_appends_or_replaces_as_it_says_and_says_what_changed(tmp_path: Path) -> None:
    world = World()
    async with world.running(), serving(world.service) as address:  # type: ignore[arg-type]
        first = await imported(address, file_of(tmp_path, 0, 800), "--recipe", "toy_words", "--watch")
        assert "800 rows read → snapshot 1: 0 rows before, 800 now, 800 added, 0 removed" in first
        second = file_of(tmp_path, 600, 1000)
        refused = await imported(address, second, "--watch", code=1)
        assert "--append" in refused and "--replace" in refused and len(await world.splits()) == 800
        appended = await imported(address, second, "--append", "--watch")
        assert "succeeded, 400 rows read → snapshot 2: 800 rows before, 1000 now, 200 added, 0 removed" in appended
        replaced = await imported(address, second, "--replace", "--watch")
        assert "succeeded, 400 rows read → snapshot 3: 1000 rows before, 400 now, 0 added, 600 removed" in replaced
        both = await imported(address, second, "--append", "--replace", code=1)
        assert "leave one of them out" in both and (await world.snapshot()).number == 3
