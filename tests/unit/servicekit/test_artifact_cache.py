"""Artifacts on disk: fetched once, shared by processes, and removed when they are no longer used."""

import asyncio
import mmap
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from millstream.errors import InvalidArgument, NotFound
from millstream.training.v1.training_run_pb2 import Artifact
from servicekit import metrics
from servicekit.blobs import artifacts
from servicekit.blobs.artifact_cache import ABANDONED_SECONDS, ArtifactCache
from servicekit.blobs.artifacts import describe, store
from servicekit.blobs.directory import DirectoryBlobs
from servicekit.blobs.memory import MemoryBlobs

LONG_AGO = 1.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "made"
    (made / "deep").mkdir(parents=True)
    (made / "model.json").write_bytes(b"{}")
    (made / "deep" / "weights.bin").write_bytes(os.urandom(1 << 20))
    return made


@pytest.fixture
def cache(tmp_path: Path) -> ArtifactCache:
    return ArtifactCache(MemoryBlobs(), tmp_path / "cache")


def names(cache: ArtifactCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


async def three(cache: ArtifactCache, folder: Path) -> list[str]:
    """Three artifacts in the cache, last used 1, 2 and 3 seconds after the epoch."""
    digests = []
    for seconds in (1, 2, 3):
        (folder / "model.json").write_text(str(seconds))
        digests.append((await store(cache.blobs, folder)).digest)
        os.utime(await cache.fetch(digests[-1]), (seconds, seconds))
    return digests


async def test_an_artifact_is_downloaded_once(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    found = await cache.fetch(digest)
    assert found == cache.folder / digest and describe(found) == describe(folder)
    assert await ArtifactCache(MemoryBlobs(), cache.folder).fetch(digest) == found, "not even its store is asked"


async def test_an_artifact_is_on_the_disk_before_it_has_its_name(
    cache: ArtifactCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave a folder of that name with empty files in it."""
    synced, before_rename, sync, rename = set[int](), set[int](), os.fsync, Path.rename

    def noted(opened: int) -> None:
        sync(opened)
        synced.add(os.fstat(opened).st_ino)

    def renamed(path: Path, target: Path) -> Path:
        before_rename.update(synced)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(Path, "rename", renamed)
    found = await cache.fetch((await store(cache.blobs, folder)).digest)
    late = [path.name for path in (found, *found.rglob("*")) if path.stat().st_ino not in before_rename]
    assert not late, f"not on the disk when the artifact got its name: {late}"


async def test_five_callers_at_once_get_one_artifact(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    found = await asyncio.gather(*(cache.fetch(digest) for _ in range(5)))
    assert set(found) == {cache.folder / digest} and describe(found[0]).digest == digest
    assert names(cache) == {digest}, "nothing stays behind"


async def test_a_damaged_artifact_is_refused_and_leaves_nothing(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    await cache.blobs.put(f"artifacts/{digest}/files/model.json", b"[]")
    with pytest.raises(InvalidArgument, match="damaged"):
        await cache.fetch(digest)
    await cache.blobs.delete(f"artifacts/{digest}/files/model.json")
    with pytest.raises(NotFound):
        await cache.fetch(digest)
    assert names(cache) == set()


@pytest.mark.parametrize("digest", ["", "..", "../made", "0" * 31])
async def test_a_malformed_digest_is_refused(cache: ArtifactCache, folder: Path, digest: str) -> None:
    with pytest.raises(InvalidArgument, match="no digest"):
        await cache.fetch(digest)


async def test_the_newest_are_kept(cache: ArtifactCache, folder: Path) -> None:
    first, second, third = await three(cache, folder)
    await cache.fetch(first)
    assert cache.keep_newest(2) == [second]
    assert names(cache) == {first, third}


async def test_unused_artifacts_are_removed_unless_any_process_uses_them(cache: ArtifactCache, folder: Path) -> None:
    first, second, third = await three(cache, folder)
    elsewhere = ArtifactCache(cache.blobs, cache.folder)
    assert set(elsewhere.remove_unused(60, {first, second})) == {third}
    assert cache.remove_unused(60, set()) == [], "the other process has marked its own"
    for path in cache.folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    assert cache.remove_unused(60, {second}) == [first]
    assert names(cache) == {second}


@pytest.mark.parametrize("way", ["keep_newest", "remove_unused"])
async def test_abandoned_downloads_are_removed_and_growing_ones_stay(cache: ArtifactCache, way: str) -> None:
    for name in (".fetching-dead", ".fetching-growing", ".removed-dead"):
        (cache.folder / name).mkdir(parents=True)
    growing = cache.folder / ".fetching-growing" / "weights.bin"
    growing.write_bytes(b"half")
    for path in cache.folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    cache.keep_newest(1) if way == "keep_newest" else cache.remove_unused(ABANDONED_SECONDS, set())
    assert names(cache) == {".fetching-growing"}


def test_a_cache_that_does_not_exist_yet_has_nothing_to_remove(cache: ArtifactCache) -> None:
    assert cache.keep_newest(1) == cache.remove_unused(0, {"0" * 32}) == []
    assert not cache.remove("0" * 32)


class RemovesAtOnce(ArtifactCache):
    """Another process removes the artifact as soon as it has come."""

    async def _download(self, prefix: str, digest: str, target: Path) -> None:
        await super()._download(prefix, digest, target)
        self.downloads = getattr(self, "downloads", 0) + 1
        if self.downloads == 1:
            assert ArtifactCache(self.blobs, self.folder).remove(digest)


async def test_an_artifact_that_another_process_removes_at_that_moment_is_downloaded_again(
    cache: ArtifactCache, folder: Path
) -> None:
    digest = (await store(cache.blobs, folder)).digest
    racing = RemovesAtOnce(cache.blobs, cache.folder)
    assert (await racing.fetch(digest)).is_dir() and racing.downloads == 2


FETCH_AND_REMOVE = """
import asyncio, sys
from pathlib import Path
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.blobs.artifacts import describe
from servicekit.blobs.directory import DirectoryBlobs

async def main(blobs, folder, digest):
    cache = ArtifactCache(DirectoryBlobs(Path(blobs)), Path(folder))
    for _ in range(20):
        path = await cache.fetch(digest)
        assert path.name == digest
        cache.remove(digest)
        cache.keep_newest(0)
        await cache.fetch(digest)

asyncio.run(main(*sys.argv[1:]))
"""


def test_processes_that_fetch_and_remove_at_once_leave_one_whole_artifact(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "blobs").mkdir()
    digest = asyncio.run(store(DirectoryBlobs(tmp_path / "blobs"), folder)).digest
    command = [sys.executable, "-c", FETCH_AND_REMOVE, str(tmp_path / "blobs"), str(tmp_path / "cache"), digest]
    racers = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    ended = [(racer.communicate()[1].decode(), racer.returncode) for racer in racers]
    assert [code for _, code in ended] == [0, 0, 0], ended
    cache = ArtifactCache(DirectoryBlobs(tmp_path / "blobs"), tmp_path / "cache")
    assert describe(asyncio.run(cache.fetch(digest))).digest == digest
    assert names(cache) == {digest}


def damage(copy: Path, how: str = "changed") -> None:
    """Damage the weights of a copy, as a disk or another program does: in place."""
    weights = copy / "deep" / "weights.bin"
    data = weights.read_bytes()
    if how == "missing":
        weights.unlink()
    elif how == "added":
        (copy / "more.json").write_text("{}")
    else:
        weights.write_bytes(data[:100] if how == "cut" else data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("how", ["cut", "changed", "missing", "added"])
async def test_a_copy_that_is_not_what_its_digest_names_is_removed_and_fetched_again(
    cache: ArtifactCache, folder: Path, how: str
) -> None:
    digest = (await store(cache.blobs, folder)).digest
    damage(await cache.fetch(digest), how)
    assert await cache.verify(digest) is False
    assert names(cache) == set()
    assert await cache.verify(digest) is False, "there is none"
    assert describe(await cache.fetch(digest)).digest == digest
    assert await cache.verify(digest) is True
    assert names(cache) == {digest}


def removed_as_damaged() -> float:
    return metrics.ARTIFACTS_DAMAGED._value.get()


@pytest.mark.parametrize("how", ["cut", "changed", "missing", "added"])
async def test_no_fetch_returns_a_damaged_copy(
    cache: ArtifactCache, folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    digest, before = (await store(cache.blobs, folder)).digest, removed_as_damaged()
    damage(await cache.fetch(digest), how)
    restarted = ArtifactCache(cache.blobs, cache.folder)
    assert describe(await restarted.fetch(digest)).digest == digest
    assert names(cache) == {digest}
    assert removed_as_damaged() == before + 1
    (warning,) = [record for record in caplog.records if record.message == "cached artifact damaged and removed"]
    assert vars(warning)["artifact"] == digest


async def test_a_damaged_copy_of_a_damaged_artifact_is_the_artifacts_fault(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    damage(await cache.fetch(digest))
    await cache.blobs.put(f"artifacts/{digest}/files/model.json", b"[]")
    with pytest.raises(InvalidArgument, match=f"artifacts/{digest} have the digest .* they were damaged"):
        await cache.fetch(digest)
    assert names(cache) == set()


async def test_loads_at_once_of_a_damaged_copy_all_get_the_whole_one(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    damage(await cache.fetch(digest))
    another_process = ArtifactCache(cache.blobs, cache.folder)
    found = await asyncio.gather(*(one.fetch(digest) for one in (cache, another_process) * 4))
    assert set(found) == {cache.folder / digest} and describe(found[0]).digest == digest
    assert names(cache) == {digest}


async def test_a_copy_that_replaced_a_damaged_one_meanwhile_is_not_removed(
    cache: ArtifactCache, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = (await store(cache.blobs, folder)).digest
    damage(await cache.fetch(digest))

    def slowly(copy: Path) -> Artifact:
        """Meanwhile another process, which was faster, removes the copy, and puts the whole one in its place."""
        read = describe(copy)
        assert ArtifactCache(cache.blobs, cache.folder).remove(digest)
        shutil.copytree(folder, copy)
        return read

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "describe", slowly)
        assert await cache.verify(digest) is False, "what it has read was damaged"
    assert names(cache) == {digest}, "it removed what the other process had fetched"
    assert await cache.verify(digest) is True


async def test_who_has_mapped_a_damaged_copy_goes_on_reading_the_same_bytes(cache: ArtifactCache, folder: Path) -> None:
    digest = (await store(cache.blobs, folder)).digest
    copy = await cache.fetch(digest)
    damage(copy)
    weights = copy / "deep" / "weights.bin"
    damaged = weights.read_bytes()
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        await cache.fetch(digest)
        assert weights.read_bytes() != damaged
        assert mapped[:] == damaged


async def test_what_others_keep_in_the_folder_is_no_abandoned_download(cache: ArtifactCache) -> None:
    for name in (".fetching-1", ".removed-1", ".measuring-1"):
        (cache.folder / name).mkdir(parents=True)
        os.utime(cache.folder / name, (LONG_AGO, LONG_AGO))
    assert cache.keep_newest(1) == []
    assert names(cache) == {".measuring-1"}
