"""Rows as the parts of a snapshot."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.dataset.v1.dataset_pb2 import DatasetPart, Snapshot
from millstream.errors import InvalidArgument
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.parts import pack_rows, read_part, read_split, unpack_rows

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
def test_rows_come_back_as_they_were(rows: list[dict[str, Any]]) -> None:
    rows.append({"text": "a\u2028b\u2029c\u0085d\x0be\x0cf\x1c\r\ng"})
    assert unpack_rows(pack_rows(rows)) == rows
    assert pack_rows(rows) == pack_rows([dict(reversed(list(row.items()))) for row in rows])


async def test_the_rows_of_a_split_are_read_in_order_and_verified() -> None:
    import hashlib

    blobs = MemoryBlobs()
    snapshot = Snapshot()
    for number, (split, table) in enumerate(
        [("train", "rows"), ("test", "rows"), ("train", ""), ("train", "passages")]
    ):
        data = pack_rows([{"n": number}])
        part = DatasetPart(split=split, table=table, key=f"parts/{number}", digest=hashlib.sha256(data).hexdigest())
        snapshot.parts.append(part)
        await blobs.put(part.key, data)
    assert await read_split(blobs, snapshot, "train") == [{"n": 0}, {"n": 2}]
    await blobs.put("parts/0", pack_rows([{"n": 9}]))
    with pytest.raises(InvalidArgument, match="was damaged"):
        await read_part(blobs, snapshot.parts[0])
