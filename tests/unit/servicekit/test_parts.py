"""Rows as the parts of a snapshot."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.dataset.v1.dataset_pb2 import Snapshot
from millstream.errors import InvalidArgument
from millstream.files import file_digest
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.parts import PartFile, encode_row, read_part, read_split, unpack_rows
from tests.worlds.parts import stored_part, written_part

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), VALUES, max_size=4)))
def test_rows_come_back_as_they_were_and_equal_rows_are_equal_bytes(rows: list[dict[str, Any]]) -> None:
    rows.append({"text": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1c\r\ng"})
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        part = written_part(Path(first), rows, "train")
        again = written_part(Path(second), [dict(reversed(list(row.items()))) for row in rows], "validation")
        assert unpack_rows(part.path.read_bytes()) == rows
        assert part.path.read_bytes() == again.path.read_bytes()


def test_a_written_part_names_its_digest_size_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl.gz"
    part = written_part(tmp_path, [{"n": 1}, {"n": 2}], "test")
    assert part == PartFile("test", path, file_digest(path), path.stat().st_size, 2)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "\ud800"])
def test_a_row_that_json_cannot_hold_is_not_encoded(value: Any) -> None:
    with pytest.raises(ValueError):
        encode_row({"text": value})


async def test_the_rows_of_a_split_are_read_in_order_and_verified() -> None:
    blobs = MemoryBlobs()
    snapshot = Snapshot()
    for number, (split, table) in enumerate(
        [("train", "rows"), ("test", "rows"), ("train", ""), ("train", "passages")]
    ):
        snapshot.parts.append(await stored_part(blobs, split, [{"n": number}], table=table))
    assert await read_split(blobs, snapshot, "train") == [{"n": 0}, {"n": 2}]
    await blobs.put(snapshot.parts[0].key, await blobs.get(snapshot.parts[1].key))
    with pytest.raises(InvalidArgument, match="was damaged"):
        await read_part(blobs, snapshot.parts[0])
