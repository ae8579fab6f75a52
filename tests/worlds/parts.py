"""Parts of a snapshot in a store, as dataprep leaves them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from millstream.dataset.v1.dataset_pb2 import DatasetPart
from servicekit.blobs.parts import PartFile, PartWriter, encode_row
from servicekit.blobs.port import Blobs


def written_part(folder: Path, rows: Iterable[Mapping[str, Any]], split: str = "train") -> PartFile:
    """A part on disk."""
    with PartWriter(folder, split) as writer:
        for row in rows:
            writer.write(encode_row(row))
    return writer.part()


async def stored_part(
    blobs: Blobs, split: str, rows: Iterable[Mapping[str, Any]], *, dataset: str = "words", table: str = "rows"
) -> DatasetPart:
    """A part in the store."""
    with TemporaryDirectory() as folder:
        part = written_part(Path(folder), rows, split)
        key = f"datasets/{dataset}/parts/{part.digest}"
        await blobs.upload(key, part.path)
    return DatasetPart(
        split=split, table=table, key=key, digest=part.digest, size_bytes=part.size_bytes, rows=part.rows
    )
