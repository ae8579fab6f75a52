"""`millstream datasets import` against dataprep, over loopback: it says what became of the rows of dataset and file."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

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
        begun = await imported(address, second, "--replace", "--request-id", "once")
        again = begun.partition("see how it ends, and what is quarantined: `millstream ")[2].partition("`")[0]
        assert "unchanged" in await imported(address, second, *again.split()[5:]), again
        both = await imported(address, second, "--append", "--replace", code=2)
        assert "--append keeps the rows of the dataset" in both and (await world.snapshot()).number == 3


SPELLINGS = {"integers": ("0", "1"), "decimals": ("0.0", "1.0")}


def labelled(folder: Path, labels: tuple[str, str], rows: int) -> Path:
    path = folder / f"{labels[0]}.csv"
    cells = [f"scene {number} of a film,{labels[number % 2]}\n" for number in range(rows)]
    path.write_text("text,label\n" + "".join(cells))
    return path


@pytest.mark.parametrize("order", [("integers", "decimals"), ("decimals", "integers")])
async def test_files_with_labels_as_integers_and_as_decimals_are_one_dataset(
    order: tuple[str, str], tmp_path: Path
) -> None:
    rows = {"integers": 300, "decimals": 400}
    first, second = (labelled(tmp_path, SPELLINGS[name], rows[name]) for name in order)
    world = World()
    async with world.running(), serving(world.service) as address:  # type: ignore[arg-type]
        printed = [
            await imported(address, first, "--recipe", "toy_words", "--watch"),
            await imported(address, second, "--append", "--watch"),
        ]
        assert "labels: 400 decimals read as whole numbers (1.0 is 1)" in printed[order.index("decimals")]
        assert "decimals" not in printed[order.index("integers")]
        assert "300 duplicate, 0 quarantined" in printed[1] and "warning" not in printed[1]
        assert "label 0: 1" in printed[1] and "label 0.0" not in printed[1]
        counts = {
            label.label: label.train + label.validation + label.test for label in (await world.snapshot()).labels.counts
        }
        assert counts == {"0": 200, "1": 200}


async def test_a_watched_import_states_its_quarantine_as_text_and_as_json(tmp_path: Path) -> None:
    path = tmp_path / "words.csv"
    good, bad = "scene {} of a film,{}\n", "scene {} without a label,\n"
    path.write_text(
        "text,label\n" + "".join(good.format(n, "ab"[n % 2]) for n in range(100)) + "".join(map(bad.format, range(150)))
    )
    world = World()
    async with world.running(), serving(world.service) as address:  # type: ignore[arg-type]
        words = ("--recipe", "toy_words", "--request-id", "once")
        text = await imported(address, path, *words, "--watch")
        assert "the file: 100 of 250 rows kept, 0 duplicate, 150 quarantined" in text
        assert "warning: 150 of 250 rows (60%) are in quarantine" in text
        assert "quarantined, label: missing: 150" in text
        assert "`millstream datasets rows words --number 1 --split quarantine`" in text
        again = await imported(address, path, *words)
        assert "quarantined, label: missing: 150" in again, "an import that has ended says so without --watch"
        documents = (await imported(address, path, *words, "--watch", "-o", "json")).splitlines()
        ended = json.loads(documents[0])
        assert ended["file"]["rows"]["quarantined"] == "150"
        assert ended["file"]["quarantine_reasons"] == {"label: missing": "150"}
