"""Dataprep on real files from the folder TEST_REAL_DATA; skipped without it."""

import gzip
import json
import os
from pathlib import Path

import pytest

from millstream.dataset.v1.dataset_pb2 import DatasetSpec
from millstream.dataset.v1.import_pb2 import Import
from servicekit.blobs.parts import read_split
from tests.worlds.dataprep import World

DATA = Path(os.environ.get("TEST_REAL_DATA", "/nowhere"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="TEST_REAL_DATA names no folder of real data")
REVIEWS = DATA / "telugu_sentiment/train.jsonl.gz"


async def splits(world: World, number: int) -> dict[str, str]:
    """text → split, of a whole snapshot."""
    snapshot = await world.snapshot(number, "telugu")
    names = ("train", "validation", "test")
    return {row["text"]: name for name in names for row in await read_split(world.blobs, snapshot, name)}


async def test_real_reviews_are_all_counted_and_keep_their_split_in_another_file() -> None:
    async with World(recipes="recipes").running() as world:
        spec = DatasetSpec(recipe="siamese_sentiment")
        ended = await world.do(REVIEWS.read_bytes(), dataset="telugu", file_name=REVIEWS.name, spec=spec)
        assert ended.state == Import.STATE_SUCCEEDED, ended.refusal
        snapshot = await world.snapshot(dataset="telugu")
        rows = snapshot.rows
        assert rows.read == 13_252 == rows.kept + rows.duplicate + rows.quarantined
        assert rows.kept > 0.99 * rows.read, dict(snapshot.quarantine_reasons)
        assert 0.08 < snapshot.splits["test"] / rows.kept < 0.12
        lines = [line for line in gzip.decompress(REVIEWS.read_bytes()).split(b"\n") if line]
        half = b"\n".join(reversed(lines[::2])) + b"\n"
        assert (await world.do(half, dataset="telugu", spec=None)).state == Import.STATE_SUCCEEDED
        whole, part = [await splits(world, number) for number in (1, 2)]
        assert len(part) > 6000
        moved = [text for text, split in part.items() if whole[text] != split]
        assert not moved, f"{len(moved)} rows moved to another split, the first: {moved[0]!r}"


@pytest.mark.parametrize("path", sorted((DATA / "dirty").glob("*.csv")), ids=lambda path: path.stem)
async def test_a_dirty_file_is_read_to_the_last_row_or_refused_with_a_reason(path: Path) -> None:
    async with World().running() as world:
        ended = await world.do(path.read_bytes(), dataset="dirty", file_name=path.name, spec=DatasetSpec())
        if ended.state == Import.STATE_REFUSED:
            assert len(ended.refusal) > 20, "a refusal must give the reason and what to do"
            return
        assert ended.state == Import.STATE_SUCCEEDED
        rows = (await world.snapshot(dataset="dirty")).rows
        assert rows.kept and rows.read == rows.kept + rows.duplicate + rows.quarantined
        quarantined = await world.rows("quarantine", dataset="dirty")
        assert len(quarantined) == rows.quarantined
        assert all(row["reason"] and json.dumps(row) for row in quarantined)
