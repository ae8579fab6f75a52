"""Every store passes the same suite; below it, what only the directory can show."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import pytest

from millstream.errors import InvalidArgument, NotFound, Unavailable
from servicekit.blobs.directory import STALE_SECONDS, DirectoryBlobs
from servicekit.blobs.memory import MemoryBlobs
from servicekit.blobs.port import Blobs
from servicekit.runtime.backends import open_blobs
from servicekit.runtime.settings import Settings
from tests.suites.blobs import BlobsContract, everything, keys
from tests.suites.shared_blobs import SharedBlobsContract
from tests.worlds.disk import largest_file


class TestMemoryBlobs(BlobsContract):
    stores: ClassVar[dict[Path, MemoryBlobs]] = {}

    def make(self, tmp_path: Path) -> Blobs:
        return self.stores.setdefault(tmp_path, MemoryBlobs())


class TestDirectoryBlobs(SharedBlobsContract):
    def make(self, tmp_path: Path) -> DirectoryBlobs:
        return DirectoryBlobs(tmp_path / "blobs")

    def address(self, tmp_path: Path) -> str:
        return f"directory:{tmp_path / 'blobs'}"

    async def test_a_full_disk_is_unavailable_and_leaves_nothing_half_made(self, tmp_path: Path) -> None:
        blobs, big = self.make(tmp_path), tmp_path / "big"
        big.write_bytes(b"x" * (3 << 20))
        await blobs.put("kept", b"before")
        await blobs.upload("up", big)
        with largest_file(1 << 20):
            for call in (
                blobs.put("kept", big.read_bytes()),
                blobs.put("new", big.read_bytes()),
                blobs.put_if_absent("new", big.read_bytes()),
                blobs.upload("new", big),
            ):
                with pytest.raises(Unavailable, match=f"{blobs.root}.*free space"):
                    await call
            with pytest.raises(Unavailable, match=f"{tmp_path / 'down'}.*free space"):
                await blobs.download("up", tmp_path / "down")
            await blobs.put("small", b"still fits")
        assert await keys(blobs, "") == ["kept", "small", "up"]
        assert await blobs.get("kept") == b"before"
        assert not list((blobs.root / ".tmp").iterdir())
        assert sorted(path.name for path in tmp_path.iterdir()) == ["big", "blobs"]

    async def test_a_full_or_readonly_mount_says_what_to_fix(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        with mounted(blobs.root) as mount:
            await blobs.check()
            with pytest.raises(Unavailable, match=r"No space left.*free space"):
                await blobs.put("big", b"x" * (2 << 20))
            await blobs.put("small", b"fits")
            mount("remount,ro")
            for call in (blobs.put("other", b""), blobs.delete("small"), blobs.check()):
                with pytest.raises(Unavailable, match=f"{blobs.root}.*Read-only.*write there"):
                    await call
            assert await keys(blobs, "") == ["small"]

    async def test_a_root_that_is_a_file_is_unavailable(self, tmp_path: Path) -> None:
        (tmp_path / "blobs").write_bytes(b"")
        blobs = self.make(tmp_path)
        for call in (blobs.check(), blobs.put("a", b""), blobs.put_if_absent("a/b", b"")):
            with pytest.raises(Unavailable, match=f"{blobs.root}"):
                await call

    async def test_no_link_in_the_folder_leads_out_of_it_or_round_in_it(self, tmp_path: Path) -> None:
        """A link to a file of mode 600 was served to callers, and one to `.` made listings endless."""
        blobs, outside = self.make(tmp_path), tmp_path / "outside"
        (outside / "deep").mkdir(parents=True)
        (outside / "secret").write_bytes(b"secret")
        await blobs.put("a/real", b"real")
        links = {
            "a/secret": outside / "secret",
            "out": outside,
            "a/round": Path("."),
            "up": Path(".."),
            "gone": Path("x"),
        }
        for name, target in links.items():
            (blobs.root / name).symlink_to(target)
        os.mkfifo(blobs.root / "a/pipe")
        assert await keys(blobs, "") == ["a/real"] and await keys(blobs, "out/") == []
        assert await everything(blobs.children("")) == ["a"] and await everything(blobs.children("a/")) == ["real"]
        for key in ("a/secret", "out/secret", "a/round/real", "up/outside/secret", "gone", "a/pipe"):
            with pytest.raises(NotFound):
                await blobs.get(key)
            with pytest.raises(NotFound):
                await blobs.download(key, tmp_path / "down")
            assert not await blobs.exists(key)
        for key in ("out/new", "out/deep/new", "a/secret/new"):
            with pytest.raises(InvalidArgument, match="cannot be below"):
                await blobs.put(key, b"")
            await blobs.delete(key)
        await blobs.delete("out/secret")
        assert await blobs.put_if_absent("a/secret", b"other") is False
        await blobs.put("a/secret", b"mine")
        assert await blobs.get("a/secret") == b"mine", "the link gave way, and what it named stays"
        found = sorted(str(path.relative_to(outside)) for path in outside.rglob("*"))
        assert found == ["deep", "secret"] and (outside / "secret").read_bytes() == b"secret"

    async def test_nothing_is_written_where_a_link_in_place_of_the_temporary_folder_leads(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        blobs.root.mkdir()
        (tmp_path / "outside").mkdir()
        (blobs.root / ".tmp").symlink_to(tmp_path / "outside")
        with pytest.raises(Unavailable, match=r"\.tmp is a link: remove it"):
            await blobs.put("a", b"x")
        assert not list((tmp_path / "outside").iterdir())

    async def test_what_killed_processes_left_is_collected_after_a_day(self, tmp_path: Path) -> None:
        await self.make(tmp_path).put("a", b"")
        temporary = self.make(tmp_path).root / ".tmp"
        old, young = temporary / "old", temporary / "young"
        for path, age in ((old, STALE_SECONDS + 60), (young, STALE_SECONDS - 60)):
            path.write_bytes(b"half")
            os.utime(path, (time.time() - age,) * 2)
        blobs = self.make(tmp_path)
        assert await keys(blobs, "") == ["a"]
        await blobs.put("b", b"")
        assert [path.name for path in temporary.iterdir()] == ["young"]

    async def test_strange_files_and_empty_folders_are_not_listed(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        await blobs.put("a/b", b"")
        (blobs.root / "empty" / "deeper").mkdir(parents=True)
        for name in ("with space", ".hidden", "é", "a/.nfs0001"):
            (blobs.root / name).write_bytes(b"")
        assert await keys(blobs, "") == ["a/b"]
        assert await everything(blobs.children("")) == ["a"]
        assert await blobs.put_if_absent("empty", b"the folder that a killed put left is no object")
        assert await blobs.exists("empty")


def test_addresses(tmp_path: Path) -> None:
    assert isinstance(open_blobs(Settings(blobs=f"directory:{tmp_path}")), DirectoryBlobs)
    assert isinstance(open_blobs(Settings(blobs="memory:")), MemoryBlobs)
    for address in ("", "directory:", "minio:", "ftp:x", str(tmp_path)):
        with pytest.raises(InvalidArgument, match="MILLSTREAM_BLOBS"):
            open_blobs(Settings(blobs=address))


@contextmanager
def mounted(root: Path) -> Iterator[Callable[[str], None]]:
    """A file system of 1 MiB at `root`, and a way to mount it anew with other options. Needs root, else skips."""

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", root], check=True, capture_output=True)

    root.mkdir()
    try:
        mount("size=1m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting needs root; the full disk by RLIMIT_FSIZE is shown everywhere")
    try:
        yield mount
    finally:
        subprocess.run(["umount", root], check=True)
