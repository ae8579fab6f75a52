"""Stored folders: whole or not at all, verified when read, and artifacts named by content."""

import os
from pathlib import Path

import pytest

from millstream.errors import InvalidArgument, NotFound
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile
from servicekit.blobs import artifacts
from servicekit.blobs.artifacts import describe, download, manifest, prefix_of, store
from servicekit.blobs.memory import MemoryBlobs

CHECKPOINT = "checkpoints/run-1/0000000001/0000000050"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "model.json").write_bytes(b"{}")
    (made / "deep" / "weights.bin").write_bytes(os.urandom(3 << 20))
    return made


@pytest.fixture
def target(tmp_path: Path) -> Path:
    target = tmp_path / "target"
    target.mkdir()
    return target


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("prefix", ["", CHECKPOINT])
async def test_what_was_stored_is_downloaded(folder: Path, target: Path, prefix: str) -> None:
    blobs = MemoryBlobs()
    stored = await store(blobs, folder, prefix)
    prefix = prefix or prefix_of(stored.digest)
    assert stored == describe(folder) == await manifest(blobs, prefix) == await store(blobs, folder, prefix)
    await download(blobs, prefix, target)
    assert content(target) == content(folder)
    key = artifacts.file_key(prefix, "deep/weights.bin")
    assert await blobs.get(key) == (folder / "deep" / "weights.bin").read_bytes()


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


@pytest.mark.parametrize("prefix", ["", CHECKPOINT])
async def test_a_damaged_or_missing_file_is_refused(folder: Path, target: Path, prefix: str) -> None:
    blobs = MemoryBlobs()
    stored = await store(blobs, folder, prefix)
    prefix = prefix or prefix_of(stored.digest)
    await blobs.put(f"{prefix}/files/model.json", b"[]")
    with pytest.raises(InvalidArgument, match="damaged"):
        await download(blobs, prefix, target)
    await blobs.delete(f"{prefix}/files/model.json")
    with pytest.raises(NotFound):
        await download(blobs, prefix, target)


async def test_a_manifest_that_agrees_with_its_files_is_not_enough_when_a_digest_is_asked_for(
    folder: Path, target: Path
) -> None:
    blobs = MemoryBlobs()
    await store(blobs, folder, CHECKPOINT)
    with pytest.raises(InvalidArgument, match="damaged"):
        await download(blobs, CHECKPOINT, target, digest="0" * 32)


class DiesAtTheLast(MemoryBlobs):
    """Fails at the manifest, which store() puts and uploads do not."""

    async def put(self, key: str, data: bytes) -> None:
        if key.endswith("/manifest"):
            raise InterruptedError
        await super().put(key, data)


async def test_without_its_manifest_there_is_no_folder(folder: Path, target: Path) -> None:
    blobs = DiesAtTheLast()
    with pytest.raises(InterruptedError):
        await store(blobs, folder, CHECKPOINT)
    assert [listed.key async for listed in blobs.list(f"{CHECKPOINT}/files/")]
    assert [prefix async for prefix in artifacts.stored_under(blobs, "checkpoints/")] == []
    with pytest.raises(NotFound):
        await download(blobs, CHECKPOINT, target)


async def test_whole_folders_are_listed_also_with_a_file_that_is_called_manifest(folder: Path) -> None:
    blobs = MemoryBlobs()
    (folder / "manifest").write_bytes(b"a recipe's own")
    for step in ("0000000050", "0000000060"):
        await store(blobs, folder, f"checkpoints/run-1/0000000001/{step}")
    await store(blobs, folder, "checkpoints/run-2/0000000001/0000000050")
    assert [prefix async for prefix in artifacts.stored_under(blobs, "checkpoints/run-1/")] == [
        "checkpoints/run-1/0000000001/0000000050",
        "checkpoints/run-1/0000000001/0000000060",
    ]


class NotesDeletions(MemoryBlobs):
    def __init__(self) -> None:
        super().__init__()
        self.deleted: list[str] = []

    async def delete(self, key: str) -> None:
        self.deleted.append(key)
        await super().delete(key)


async def test_a_folder_is_removed_manifest_first_and_nothing_else_is(folder: Path) -> None:
    blobs = NotesDeletions()
    await store(blobs, folder, CHECKPOINT)
    await store(blobs, folder, f"{CHECKPOINT}1")
    await artifacts.delete(blobs, CHECKPOINT)
    assert blobs.deleted[0] == f"{CHECKPOINT}/manifest"
    assert [listed.key async for listed in blobs.list(f"{CHECKPOINT}/")] == []
    assert [prefix async for prefix in artifacts.stored_under(blobs, "checkpoints/")] == [f"{CHECKPOINT}1"]
    await artifacts.delete(blobs, CHECKPOINT)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a/..", ""])
async def test_a_path_that_escapes_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    blobs = MemoryBlobs()
    evil = Artifact(digest="0" * 32, files=[ArtifactFile(path=name, digest="d", size_bytes=1)])
    await blobs.put(f"{CHECKPOINT}/manifest", evil.SerializeToString())
    with pytest.raises(InvalidArgument):
        await download(blobs, CHECKPOINT, target)
    assert not list(tmp_path.rglob("evil"))


@pytest.mark.parametrize("digest", ["", ".", "..", "../made", "/", "0" * 31, "G" * 32, "0" * 32 + "/x"])
def test_a_malformed_digest_is_refused(digest: str) -> None:
    with pytest.raises(InvalidArgument, match="no digest"):
        prefix_of(digest)
