"""Processes and a store that are killed while they write: what was kept is whole, and what is not whole is not there."""

import asyncio
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.servers.minio import Minio
from millstream.errors import Unavailable
from servicekit.blobs.port import CHUNK, Blobs
from servicekit.runtime.backends import open_blobs
from tests.suites.blobs import keys
from tests.suites.processes import child
from tests.suites.shared_blobs import SharedBlobsContract
from tests.worlds.servers import settings_of
from tests.worlds.waiting import HANG

BUCKET = "killed"
HUGE = 300 << 20


def blobs_of(store: Minio) -> Blobs:
    return open_blobs(settings_of(store.settings(BUCKET)))


@pytest.fixture
def store(own_minio: Callable[..., Minio], monkeypatch: pytest.MonkeyPatch) -> Minio:
    made = own_minio()
    for name, value in made.settings(BUCKET).items():
        monkeypatch.setenv(f"MILLSTREAM_{name.upper()}", value)  # for other processes
    return made


async def test_what_was_kept_outlives_a_kill_of_the_store(store: Minio) -> None:
    putting = await child("put", store.blobs(BUCKET), "8")
    assert putting.stdout
    kept = []
    for _ in range(3):
        kept += [await asyncio.wait_for(putting.stdout.readline(), HANG) for _ in range(30)]
        store.kill()
        store.start()
    putting.kill()
    kept += (await putting.stdout.read()).splitlines()
    await putting.wait()
    await SharedBlobsContract.check_whole(blobs_of(store), {line.decode().strip() for line in kept})


async def test_a_huge_upload_that_is_killed_shows_nothing_and_the_next_one_is_whole(
    store: Minio, tmp_path: Path
) -> None:
    source, blobs, key = tmp_path / "huge", blobs_of(store), "uploads/000000"
    digest = write_huge(source)
    await blobs.check()
    uploading = await child("upload", store.blobs(BUCKET), str(source))
    async with asyncio.timeout(HANG):
        while len(list((store.data / ".minio.sys" / "multipart").rglob("part.*"))) < 2:
            await asyncio.sleep(0.01)
    uploading.kill()
    printed, _ = await uploading.communicate()
    assert printed == b"", "it was to be killed half way"
    assert not await blobs.exists(key) and await keys(blobs, "") == []
    await blobs.upload(key, source)
    again = hashlib.sha256()
    async for chunk in blobs.read(key):
        again.update(chunk)
    assert again.hexdigest() == digest


def write_huge(path: Path) -> str:
    """A file of HUGE bytes, no two blocks alike; its digest is returned."""
    block, digest = os.urandom(CHUNK - 8), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(HUGE // CHUNK):
            for part in (number.to_bytes(8), block):
                digest.update(part)
                file.write(part)
    return digest.hexdigest()


async def test_a_store_that_lost_its_data_is_not_taken_for_an_empty_one(store: Minio) -> None:
    blobs = blobs_of(store)
    await blobs.put("facts/1", b"one")
    store.kill()
    store.wipe()
    store.start()
    for call in (blobs.get("facts/1"), blobs.put_if_absent("facts/2", b""), keys(blobs, ""), blobs.check()):
        with pytest.raises(Unavailable, match=f"bucket {BUCKET} existed and is gone.*restore it"):
            await call
    after_a_start = blobs_of(store)
    await after_a_start.check()
    assert await keys(after_a_start, "") == []


async def test_the_store_works_over_tls(own_minio: Callable[..., Minio], tmp_path: Path) -> None:
    store = own_minio(tls=True)
    blobs, source, back = blobs_of(store), tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(20 << 20))
    await blobs.upload("big", source)
    await blobs.download("big", back)
    assert back.read_bytes() == source.read_bytes() == await blobs.get("big")
    made = await asyncio.gather(*(blobs.put_if_absent("key", b"%d" % name) for name in range(8)))
    assert sum(made) == 1 and await blobs.get("key") == b"%d" % made.index(True)
    assert await keys(blobs, "") == ["big", "key"]
    await blobs.delete("key")
    assert not await blobs.exists("key")
