"""The suite of the object store port. An adapter passes it by subclassing and supplying make() (and address())."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import pytest

from millstream.errors import InvalidArgument, NotFound
from servicekit.blobs.port import CHUNK, Blobs

T = TypeVar("T")
RIVALS = 16

ODD_KEYS = (
    *("", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", ".hidden", "a/.hidden", ".tmp/x", "a b", "a\n", "é"),
    *("a\\b", "a\x00b", "a:b", "a%2fb", "a*", "x" * 201, "/".join(["x" * 100] * 9)),
)
GOOD_KEYS = ("a", "A", "a.b", "a-b", "_", "-", "~", "=", "a..", "x=1/y~2/Z_3.json", "x" * 200, "/".join(["y" * 99] * 9))


async def everything(items: AsyncIterator[T]) -> list[T]:
    return [item async for item in items]


async def keys(blobs: Blobs, prefix: str, after: str = "") -> list[str]:
    return [listed.key async for listed in blobs.list(prefix, after)]


async def put_all(blobs: Blobs, names: list[str]) -> None:
    """Put the key's own bytes under each key, some at a time."""
    for start in range(0, len(names), 64):
        await asyncio.gather(*(blobs.put(name, name.encode()) for name in names[start : start + 64]))


class BlobsContract:
    """The contract of every store."""

    def make(self, tmp_path: Path) -> Blobs:
        """An empty store, or one more handle of it: two calls with the same path see the same objects."""
        raise NotImplementedError

    async def test_gives_back_what_was_put(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        for data in (b"", b"one", b"\x00\xff" * 300_000, b"shorter"):
            await blobs.put("some/key", data)
            assert await blobs.get("some/key") == data
            assert b"".join(await everything(blobs.read("some/key"))) == data
            assert [(o.key, o.size) for o in await everything(blobs.list(""))] == [("some/key", len(data))]
        assert await blobs.exists("some/key")

    async def test_absent_is_not_found(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        for _ in range(2):
            for key in ("absent", "folder", "folder/absent", "folder/object/below"):
                with pytest.raises(NotFound, match=key):
                    await blobs.get(key)
                with pytest.raises(NotFound):
                    await everything(blobs.read(key))
                with pytest.raises(NotFound):
                    await blobs.download(key, tmp_path / "target")
                assert not await blobs.exists(key)
                await blobs.delete(key)
            assert await keys(blobs, "absent/") == await everything(blobs.children("absent/")) == []
            await blobs.put("folder/object", b"")
        assert await blobs.exists("folder/object")
        assert not (tmp_path / "target").exists()

    async def test_delete_removes_and_frees_the_key(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        await blobs.put("a/b/c", b"1")
        await blobs.delete("a/b/c")
        assert not await blobs.exists("a/b/c")
        assert await keys(blobs, "") == await everything(blobs.children("")) == []
        assert await blobs.put_if_absent("a/b", b"2")
        await blobs.delete("a/b")
        assert await blobs.put_if_absent("a/b/c", b"3")

    async def test_keys_are_the_same_everywhere(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        for key in ODD_KEYS:
            for call in (
                blobs.get(key),
                blobs.put(key, b""),
                blobs.put_if_absent(key, b""),
                blobs.delete(key),
                blobs.exists(key),
                blobs.upload(key, Path(__file__)),
                blobs.download(key, tmp_path / "target"),
                everything(blobs.read(key)),
            ):
                with pytest.raises(InvalidArgument):
                    await call
        assert await keys(blobs, "") == []
        for key in GOOD_KEYS:
            await blobs.put(key, key.encode())
        assert await keys(blobs, "") == sorted(GOOD_KEYS)
        for prefix in ("..", "../", "/", "a//", "./", ".tmp/", "x/../", "a\x00", "\ud800"):
            assert await keys(blobs, prefix) == []

    async def test_a_key_is_no_folder(self, tmp_path: Path) -> None:
        """A store that can detect it refuses; one that cannot keeps what was there."""
        blobs = self.make(tmp_path)
        await blobs.put("a/b/c", b"1")
        for key in ("a", "a/b", "a/b/c/d", "a/b/c/d/e"):
            for call in (blobs.put, blobs.put_if_absent):
                await self.refused_as_folder(call(key, b"2"))
            await self.refused_as_folder(blobs.upload(key, Path(__file__)))
        assert await blobs.get("a/b/c") == b"1"
        await blobs.put("a/b-", b"")
        await blobs.put("a/bc", b"")

    async def refused_as_folder(self, put: Awaitable[object]) -> None:
        with pytest.raises(InvalidArgument):
            await put

    async def test_put_if_absent_never_replaces(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        assert await blobs.put_if_absent("key", b"first")
        assert not await blobs.put_if_absent("key", b"second")
        assert await blobs.get("key") == b"first"
        await blobs.put("key", b"third")
        assert not await blobs.put_if_absent("key", b"fourth")
        assert await blobs.get("key") == b"third"

    async def test_one_of_many_concurrent_puts_if_absent_wins(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        for number in range(50):
            key = f"race/{number % 7}/{number}"
            won = await asyncio.gather(*(blobs.put_if_absent(key, b"%d" % name) for name in range(RIVALS)))
            assert sum(won) == 1
            assert await blobs.get(key) == b"%d" % won.index(True)

    async def test_concurrent_puts_leave_one_value_whole(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        values = [bytes([name]) * 200_000 for name in range(8)]
        for _ in range(3):
            await asyncio.gather(*(blobs.put("key", value) for value in values))
            assert await blobs.get("key") in values

    async def test_concurrent_puts_and_deletes_in_one_folder_do_no_harm(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)

        async def come_and_go(name: int) -> None:
            for _ in range(20):
                await blobs.put(f"a/b/{name}", b"x")
                assert await blobs.exists(f"a/b/{name}")
                await blobs.delete(f"a/b/{name}")

        await asyncio.gather(*(come_and_go(name) for name in range(8)))
        assert await everything(blobs.children("")) == []

    async def test_lists_ten_thousand_in_order_of_key(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        names = [f"many/{number % 100:02}{'-./0'[number % 4]}{number:05}" for number in range(10_000)]
        await put_all(blobs, names)
        names.sort()
        found = await everything(blobs.list("many/"))
        assert [listed.key for listed in found] == names
        assert {listed.size for listed in found} == {len(names[0])}
        for after in (names[0], names[4999], names[-2], "many/50", "many/50/", "many/50-", "many/50~", "a", "z"):
            assert await keys(blobs, "many/", after) == [name for name in names if name > after]
        for prefix in ("", "m", "many/5", "many/50", "many/50/", "many/50/0", "many/50-00", "none"):
            assert await keys(blobs, prefix) == [name for name in names if name.startswith(prefix)]
        assert await keys(blobs, "many/50", names[4999]) == [n for n in names if n > names[4999] and n[:7] == "many/50"]

    async def test_order_of_keys_that_share_a_beginning(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        names = ["a/b", "a/b-/c", "a-b", "a.b/c", "a0", "A/z", "a~/b", "a=", "a_/x/y", "a-/c", "ab/c", "a/a-b", "a/a/b"]
        await put_all(blobs, names)
        assert await keys(blobs, "") == sorted(names)
        for after in names:
            assert await keys(blobs, "", after) == sorted(name for name in names if name > after)
            assert await keys(blobs, "a/", after) == sorted(n for n in names if n > after and n.startswith("a/"))

    async def test_children_are_objects_and_folders(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        await put_all(blobs, ["x/a/1", "x/a/2/3", "x/a-b", "x/c", "x/0000000010/k", "x/0000000009/k", "y/z", "xy"])
        assert await everything(blobs.children("x/")) == ["0000000009", "0000000010", "a-b", "a", "c"]
        assert await everything(blobs.children("x/a/")) == ["1", "2"]
        assert await everything(blobs.children("")) == ["x", "xy", "y"]
        assert await everything(blobs.children("x/c/")) == await everything(blobs.children("../")) == []
        with pytest.raises(InvalidArgument):
            await everything(blobs.children("x"))

    async def test_a_listing_survives_what_vanishes_meanwhile(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        names = [f"{number % 40:02}/{number:04}" for number in range(800)]
        await put_all(blobs, names)
        kept = set(names[::4])
        found: set[str] = set()
        async for listed in blobs.list(""):
            if not found:
                await asyncio.gather(*(blobs.delete(name) for name in names if name not in kept))
            found.add(listed.key)
        assert kept <= found <= set(names)

    async def test_files_go_up_and_come_down(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path / "store")
        source, target = tmp_path / "source", tmp_path / "target"
        for data in (b"", os.urandom(3 * CHUNK + 17)):
            source.write_bytes(data)
            await blobs.upload("up/file", source)
            await blobs.download("up/file", target)
            assert target.read_bytes() == await blobs.get("up/file") == data
        chunks = await everything(blobs.read("up/file"))
        assert max(map(len, chunks)) <= CHUNK
        assert b"".join(chunks) == source.read_bytes()
        with pytest.raises(FileNotFoundError):
            await blobs.upload("up/other", tmp_path / "absent")
        assert not await blobs.exists("up/other")
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["source", "target"]

    async def test_check_passes_and_leaves_nothing(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        await blobs.check()
        assert await keys(blobs, "") == []
