"""Artifacts: named by content, whole or not at all, and never outside their folder."""

import asyncio
import os
from pathlib import Path

import pytest

from millstream.errors import InvalidArgument, NotFound
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile
from servicekit.blobs.artifacts import describe, fetch, manifest, store
from servicekit.blobs.memory import MemoryBlobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "model.json").write_bytes(b"{}")
    (made / "deep" / "weights.bin").write_bytes(os.urandom(3 << 20))
    return made


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


async def test_what_was_stored_is_fetched(folder: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    stored = await store(blobs, folder)
    assert stored == describe(folder) == await manifest(blobs, stored.digest) == await store(blobs, folder)
    target = await fetch(blobs, stored.digest, tmp_path / "cache")
    assert content(target) == content(folder)
    blobs._objects.clear()
    assert await fetch(blobs, stored.digest, tmp_path / "cache") == target, "fetched once"


def test_the_digest_names_paths_and_contents(folder: Path) -> None:
    first = describe(folder)
    (folder / "model.json").rename(folder / "other.json")
    second = describe(folder)
    (folder / "other.json").write_bytes(b"[]")
    assert len({first.digest, second.digest, describe(folder).digest}) == 3
    assert first.size_bytes == (3 << 20) + 2 and [file.path for file in first.files] == [
        "deep/weights.bin",
        "model.json",
    ]


async def test_two_may_fetch_at_once(folder: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = (await store(blobs, folder)).digest
    found = await asyncio.gather(*(fetch(blobs, digest, tmp_path / "cache") for _ in range(5)))
    assert set(found) == {tmp_path / "cache" / digest}
    assert content(found[0]) == content(folder)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [digest], "nothing stays behind"


async def test_a_damaged_file_is_refused_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    blobs = MemoryBlobs()
    digest = (await store(blobs, folder)).digest
    await blobs.put(f"artifacts/{digest}/files/model.json", b"[]")
    with pytest.raises(InvalidArgument, match="damaged"):
        await fetch(blobs, digest, tmp_path / "cache")
    await blobs.delete(f"artifacts/{digest}/files/model.json")
    with pytest.raises(NotFound):
        await fetch(blobs, digest, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


async def test_without_its_manifest_there_is_no_artifact(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await fetch(MemoryBlobs(), "0" * 32, tmp_path / "cache")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a/..", ""])
async def test_a_path_that_escapes_is_refused(tmp_path: Path, name: str) -> None:
    blobs = MemoryBlobs()
    digest = "0" * 32
    evil = Artifact(digest=digest, files=[ArtifactFile(path=name, digest="d", size_bytes=1)])
    await blobs.put(f"artifacts/{digest}/manifest", evil.SerializeToString())
    with pytest.raises(InvalidArgument):
        await fetch(blobs, digest, tmp_path / "cache")
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("digest", ["", ".", "..", "../made", "/", "0" * 31, "G" * 32, "0" * 32 + "/x"])
async def test_what_is_no_digest_names_no_folder(folder: Path, tmp_path: Path, digest: str) -> None:
    (tmp_path / "cache").mkdir()
    with pytest.raises(InvalidArgument, match="no digest"):
        await fetch(MemoryBlobs(), digest, tmp_path / "cache")
