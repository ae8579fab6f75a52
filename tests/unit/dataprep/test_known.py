"""The rows that an import has seen take a stated room on disk and none in memory."""

import random
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest

from millstream.dataset.v1.dataset_pb2 import FORMAT_JSON_LINES, DatasetSpec, SplitSpec
from services.dataprep.pipeline.ingest import ImportProgress, Job, ingest
from services.dataprep.pipeline.known import FIRST_SLOTS, LABEL_BYTES, KnownRows
from tests.recipes.toy_words.spec import SPEC as TOY
from tests.worlds.disk import largest_file

GOOD, BAD = sha256(b"good").digest(), sha256(b"bad").digest()
LARGEST_ROW_BYTES = 72
"""What known.py states: bytes of the table a row, once it has grown."""
ROW_MEMORY_BYTES = 4
"""Bytes of memory that a further row may cost; a dict of its key and label costs 136."""


def test_a_row_is_known_by_its_key_with_the_label_that_came_first(tmp_path: Path) -> None:
    chance = random.Random(1)
    keys = [chance.randbytes(32) for _ in range(3 * FIRST_SLOTS)]
    expected: dict[bytes, bytes] = {}
    with KnownRows(tmp_path) as known:
        for _ in range(10 * FIRST_SLOTS):
            key, label = chance.choice(keys), chance.choice((GOOD, BAD))
            assert known.add(key, label) == expected.get(key)
            expected.setdefault(key, label[:LABEL_BYTES])
        assert known.rows == len(expected) > FIRST_SLOTS
        assert [known.label(key) for key in keys] == [expected.get(key) for key in keys]
        assert known.size_bytes <= LARGEST_ROW_BYTES * known.rows
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_an_error_and_the_rows_stay_known(tmp_path: Path) -> None:
    keys = [sha256(b"%d" % number).digest() for number in range(FIRST_SLOTS)]
    with KnownRows(tmp_path) as known:
        with largest_file(known.size_bytes), pytest.raises(OSError, match="File too large"):
            for key in keys:
                known.add(key, GOOD)
        assert 0 < known.rows < FIRST_SLOTS
        assert all(known.label(key) == GOOD[:LABEL_BYTES] for key in keys[: known.rows])


def peak_of(rows: int, folder: Path) -> int:
    """Most bytes that Python held while a file of that many different rows was ingested."""
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            file.write(f'{{"text": "row {number}", "label": "{"good" if number % 2 else "bad"}"}}\n')
    spec = DatasetSpec(split=SplitSpec(validation_share=0.1, test_share=0.1))
    job = Job(path, FORMAT_JSON_LINES, spec, TOY, 1 << 30)
    tracemalloc.start()
    try:
        assert ingest(job, folder, ImportProgress()).rows.kept == rows
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    few, many = 5_000, 25_000
    growth = peak_of(many, tmp_path) - peak_of(few, tmp_path)
    assert growth < ROW_MEMORY_BYTES * (many - few)
