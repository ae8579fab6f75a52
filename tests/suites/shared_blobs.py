"""The suite of the object store port where other processes take part, and are killed. Subclass with make() and address()."""

import asyncio
import hashlib
import os
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

from millstream.errors import NotFound
from servicekit.blobs.port import CHUNK, TRANSFERS, Blobs
from tests.suites.blobs import BlobsContract, everything, keys
from tests.suites.processes import child, finish
from tests.worlds.waiting import HANG

BIG = 64 << 20
ALLOWED_GROWTH = 24 << 20


class SharedBlobsContract(BlobsContract):
    """The contract of a store whose address other processes can open."""

    def address(self, tmp_path: Path) -> str:
        raise NotImplementedError

    async def test_of_threads_in_four_processes_one_wins_each_key(self, tmp_path: Path) -> None:
        printed = await finish(await child("race", self.address(tmp_path), "4", "50"))
        winners = dict(line.split() for line in printed.splitlines())
        assert len(winners) == len(printed.splitlines()) == 50
        blobs = self.make(tmp_path)
        for number, name in winners.items():
            assert await blobs.get(f"race/{number}") == name.encode()
        assert len(await keys(blobs, "")) == 50

    async def test_calls_answer_while_every_shared_thread_and_every_transfer_is_held(self, tmp_path: Path) -> None:
        blobs, fifo = self.make(tmp_path), tmp_path / "endless"
        os.mkfifo(fifo)
        await blobs.put("a/fact", b"1")
        shared = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(shared)
        release = Event()
        held = asyncio.create_task(asyncio.to_thread(release.wait))
        uploads = [asyncio.create_task(blobs.upload(f"up/{number}", fifo)) for number in range(2 * TRANSFERS)]
        try:
            async with asyncio.timeout(HANG):
                assert await blobs.get("a/fact") == b"1" and await blobs.exists("a/fact")
                assert not await blobs.put_if_absent("a/fact", b"2")
                await blobs.put("a/heartbeat", b"1")
                await blobs.delete("a/heartbeat")
                assert await keys(blobs, "a/") == ["a/fact"]
                assert await everything(blobs.children("")) == ["a"]
                await blobs.check()
            assert not held.done() and not any(upload.done() for upload in uploads)
        finally:
            release.set()
            for upload in uploads:
                upload.cancel()
            # A reader waits in open() until a writer comes; it then finds an empty file.
            writer = os.open(fifo, os.O_RDWR)
            await asyncio.gather(held, *uploads, return_exceptions=True)
            os.close(writer)

    async def test_big_values_pass_in_bounded_memory(self, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        block, digest = os.urandom(CHUNK), hashlib.sha256()
        with source.open("wb") as file:
            for _ in range(BIG // CHUNK):
                file.write(block)
                digest.update(block)
        printed = await finish(await child("stream", self.address(tmp_path / "store"), str(source), str(target)))
        grown, read = printed.split()
        assert int(grown) < ALLOWED_GROWTH
        assert read == digest.hexdigest()
        with target.open("rb") as file:
            assert hashlib.file_digest(file, "sha256").hexdigest() == read

    async def test_an_upload_killed_half_way_shows_nothing(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(os.urandom(16 << 20))
        blobs = self.make(tmp_path / "store")
        for pause in (0.0, 0.007, 0.013, 0.023):
            uploading = await child("upload", self.address(tmp_path / "store"), str(source))
            assert uploading.stdout
            assert await asyncio.wait_for(uploading.stdout.readline(), HANG) == b"0\n"
            await asyncio.sleep(pause)
            uploading.kill()
            done = (await uploading.stdout.read()).split()
            await uploading.wait()
            found = await everything(blobs.list("uploads/"))
            assert {listed.size for listed in found} == {16 << 20}
            kept = {0, *map(int, done)}
            assert {int(listed.key[-6:]) for listed in found} >= kept
            for listed in found:
                data = await self.read_listed(blobs, listed.key, int(listed.key[-6:]) in kept)
                assert data in (None, source.read_bytes())
                await blobs.delete(listed.key)

    async def test_puts_killed_half_way_are_whole_or_absent(self, tmp_path: Path) -> None:
        blobs = self.make(tmp_path)
        for pause in (0.0, 0.011, 0.017):
            putting = await child("put", self.address(tmp_path), "8")
            assert putting.stdout
            kept = [await asyncio.wait_for(putting.stdout.readline(), HANG) for _ in range(20)]
            await asyncio.sleep(pause)
            putting.kill()
            kept += (await putting.stdout.read()).splitlines()
            await putting.wait()
            await self.check_whole(blobs, {line.decode().strip() for line in kept})

    @staticmethod
    async def check_whole(blobs: Blobs, kept: Collection[str]) -> None:
        """Each object has the bytes that its key names, and each key that was acknowledged is there."""
        found = set(await keys(blobs, "put/"))
        assert set(kept) <= found
        for key in found:
            data = await SharedBlobsContract.read_listed(blobs, key, key in kept)
            assert data is None or hashlib.sha256(data).hexdigest() == key.removeprefix("put/")

    @staticmethod
    async def read_listed(blobs: Blobs, key: str, kept: bool) -> bytes | None:
        """The object's bytes; None: it is absent, which only a put that was not acknowledged may be."""
        try:
            return await blobs.get(key)
        except NotFound:
            assert not kept
            return None
