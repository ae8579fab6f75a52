"""What a power cut may not take back: an object has its name only once its bytes are on the disk, then its folders are."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from servicekit.blobs.directory import DirectoryBlobs
from servicekit.blobs.port import Blobs

DATA = b"x" * 100_000


class Steps(list[tuple[str, int]]):
    """What the file system was told to do, in order: (step, inode)."""

    def sync(self, opened: int) -> None:
        found = os.fstat(opened)
        self.append(("synced whole" if found.st_size == len(DATA) else "synced", found.st_ino))

    def watch(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note each os.link or os.replace, with the inode that got the name."""
        real: Callable[..., Any] = getattr(os, name)

        def noted(source: str, target: str, *, dst_dir_fd: int | None = None) -> None:
            real(source, target, dst_dir_fd=dst_dir_fd)
            self.append(("named", os.stat(target, dir_fd=dst_dir_fd).st_ino))

        monkeypatch.setattr(os, name, noted)

    def watch_unlink(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note each os.unlink, with the inode that lost the name."""
        real = os.unlink

        def noted(path: str, *, dir_fd: int | None = None) -> None:
            inode = os.stat(path, dir_fd=dir_fd).st_ino
            real(path, dir_fd=dir_fd)
            self.append(("unnamed", inode))

        monkeypatch.setattr(os, "unlink", noted)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Steps:
    steps, sync = Steps(), os.fsync

    def synced(opened: int) -> None:
        sync(opened)
        steps.sync(opened)

    monkeypatch.setattr(os, "fsync", synced)
    for name in ("link", "replace"):
        steps.watch(name, monkeypatch)
    return steps


async def put(blobs: Blobs, key: str, _: Path) -> None:
    await blobs.put(key, DATA)


async def put_if_absent(blobs: Blobs, key: str, _: Path) -> None:
    assert await blobs.put_if_absent(key, DATA)


async def upload(blobs: Blobs, key: str, path: Path) -> None:
    await blobs.upload(key, path)


@pytest.mark.parametrize("write", [put, put_if_absent, upload])
async def test_an_object_is_synced_before_it_has_its_name_and_its_folders_after(
    tmp_path: Path, steps: Steps, write: Callable[[Blobs, str, Path], Any]
) -> None:
    (tmp_path / "file").write_bytes(DATA)
    await write(DirectoryBlobs(tmp_path / "blobs"), "one/two/object", tmp_path / "file")
    folder = tmp_path / "blobs" / "one" / "two"
    object_, inner, outer, root = [(folder / name).stat().st_ino for name in ("object", ".", "..", "../..")]
    named = steps.index(("named", object_))
    assert ("synced whole", object_) in steps[:named], "it had its name before its bytes were on the disk"
    assert ("synced", inner) in steps[named:], "its name is not on the disk"
    for made in (root, outer):
        assert ("synced", made) in steps, "the name of a new folder is not on the disk"


async def test_a_deletion_is_on_the_disk_before_the_next_one_begins(
    tmp_path: Path, steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could bring the manifest of a deleted folder back, and none of its files."""
    blobs, folder = DirectoryBlobs(tmp_path), tmp_path / "checkpoint"
    for name in ("manifest", "file"):
        await blobs.put(f"checkpoint/{name}", DATA)
    manifest, inner = (folder / "manifest").stat().st_ino, folder.stat().st_ino
    steps.watch_unlink(monkeypatch)
    await blobs.delete("checkpoint/manifest")
    assert ("synced", inner) in steps[steps.index(("unnamed", manifest)) :], "that its name is gone is not on the disk"
