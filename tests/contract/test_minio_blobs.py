"""MinIO passes the suite of every store; below it, what only a store across a wire can show."""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from deploy.servers.minio import Minio
from millstream.errors import InvalidArgument, Unavailable
from servicekit.blobs.port import Listed
from servicekit.blobs.s3 import blobs as blobs_module
from servicekit.blobs.s3 import transfer
from servicekit.blobs.s3.blobs import MinioBlobs
from servicekit.runtime.backends import open_blobs
from servicekit.runtime.settings import Settings
from tests.suites.blobs import everything, keys
from tests.suites.proxy import Proxy
from tests.suites.shared_blobs import SharedBlobsContract
from tests.worlds.servers import Store, admin_of, settings_of
from tests.worlds.waiting import HANG, until

LEAST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": ["arn:aws:s3:::facts"]},
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            "Resource": ["arn:aws:s3:::facts/*"],
        },
    ],
}


def bucket_of(tmp_path: Path) -> str:
    """One for each folder, so that two handles of one test see the same objects."""
    return f"b-{hashlib.sha256(str(tmp_path).encode()).hexdigest()[:24]}"


def blobs_at(settings: dict[str, str], endpoint: str = "") -> MinioBlobs:
    if endpoint:
        settings = {**settings, "blobs": f"minio:{endpoint}/{settings['blobs'].rpartition('/')[2]}"}
    opened = open_blobs(settings_of(settings))
    assert isinstance(opened, MinioBlobs)
    return opened


class TestMinioBlobs(SharedBlobsContract):
    store: ClassVar[Store]

    @pytest.fixture(autouse=True)
    def _store(self, minio: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        type(self).store = minio
        # For the suite's other processes, which get the address alone.
        monkeypatch.setenv("MILLSTREAM_MINIO_ACCESS_KEY_FILE", str(minio.access_key_file))
        monkeypatch.setenv("MILLSTREAM_MINIO_SECRET_KEY_FILE", str(minio.secret_key_file))

    def make(self, tmp_path: Path) -> MinioBlobs:
        return blobs_at(self.store.settings(bucket_of(tmp_path)))

    def address(self, tmp_path: Path) -> str:
        return self.store.blobs(bucket_of(tmp_path))

    async def refused_as_folder(self, put: Awaitable[object]) -> None:
        await put  # a check for keys below would cost each put a listing


@pytest.fixture
def wire(minio: Store) -> Iterator[Proxy]:
    with Proxy(minio.endpoint.partition("://")[2]) as proxy:
        yield proxy


async def test_a_put_if_absent_whose_reply_was_lost_is_retried_and_won(
    minio: Store, wire: Proxy, tmp_path: Path
) -> None:
    settings = minio.settings(bucket_of(tmp_path))
    near, far = blobs_at(settings), blobs_at(settings, f"http://{wire.address}")
    await near.check()
    for number in range(3):
        wire.lose_replies()
        asking = asyncio.create_task(far.put_if_absent(f"key/{number}", b"equal bytes"))
        while not await near.exists(f"key/{number}"):
            await asyncio.sleep(0.01)
        assert not await near.put_if_absent(f"key/{number}", b"equal bytes"), "of all callers one may have it"
        wire.heal()
        assert await asking, "its first try had stored it"


async def test_a_download_resumes_where_the_connection_broke(minio: Store, wire: Proxy, tmp_path: Path) -> None:
    settings = minio.settings(bucket_of(tmp_path))
    near, far = blobs_at(settings), blobs_at(settings, f"http://{wire.address}")
    data = bytes(range(256)) * (16 << 12)
    await near.put("big", data)
    found = b""
    async for chunk in far.read("big"):
        if len(found) in (1 << 20, 5 << 20):
            wire.break_connections()
        found += chunk
    assert found == data


async def test_a_connection_that_breaks_before_the_first_chunk_is_resumed(
    minio: Store, wire: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = minio.settings(bucket_of(tmp_path))
    near, far = blobs_at(settings), blobs_at(settings, f"http://{wire.address}")
    data = bytes(range(256)) * (4 << 10)
    await near.put("one-chunk", data)
    opened, open_stored = threading.Event(), transfer._open

    def opening(*arguments: Any) -> Any:
        answer = open_stored(*arguments)
        opened.set()
        return answer

    monkeypatch.setattr(transfer, "_open", opening)
    wire.cut_after(2)
    reading = asyncio.create_task(far.get("one-chunk"))
    await until(lambda: wire.is_cut and opened.is_set())
    wire.break_connections()
    wire.heal()
    assert await reading == data


async def test_an_object_replaced_while_it_is_read_is_never_mixed(minio: Store, wire: Proxy, tmp_path: Path) -> None:
    settings = minio.settings(bucket_of(tmp_path))
    near, far = blobs_at(settings), blobs_at(settings, f"http://{wire.address}")
    await near.put("big", b"a" * (32 << 20))
    with pytest.raises(Unavailable, match="replaced while it was being read"):
        async for _ in far.read("big"):
            wire.break_connections()  # first: MinIO locks an object while it is read
            await near.put("big", b"b" * (32 << 20))


@pytest.mark.parametrize(("objects", "pages"), [(0, 1), (3, 1), (4, 2), (5, 2)])
async def test_a_listing_asks_once_a_page(
    minio: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objects: int, pages: int
) -> None:
    monkeypatch.setattr(blobs_module, "PAGE", 4)
    blobs = blobs_at(minio.settings(bucket_of(tmp_path)))
    for number in range(objects):
        await blobs.put(f"folder/{number}", b"")
    asked, page = [], blobs._page

    def counted(prefix: str, after: str) -> Sequence[Listed]:
        asked.append(after)
        return page(prefix, after)

    monkeypatch.setattr(blobs, "_page", counted)
    assert [listed.key async for listed in blobs.list("folder/")] == [f"folder/{n}" for n in range(objects)]
    assert len(asked) == pages


async def test_a_silent_store_opens_the_circuit_and_one_call_probes_while_others_fail_at_once(
    minio: Store, wire: Proxy, tmp_path: Path
) -> None:
    far = blobs_at(minio.settings(bucket_of(tmp_path)), f"http://{wire.address}")
    await far.put("key", b"before")
    wire.cut()
    with pytest.raises(Unavailable, match=f"{wire.address}: it does not answer in time: see its log"):
        await far.get("key")
    waiting = asyncio.create_task(far.get("key"))
    await until(lambda: far.bucket.breaker._in_flight)
    for _ in range(20):
        with pytest.raises(Unavailable, match="does not answer in time"):
            await far.get("key")
    assert not waiting.done(), "the others did not wait for the probe"
    wire.heal()
    assert await waiting == await far.get("key") == b"before"


async def test_wrong_keys_name_the_file_to_correct(minio: Store, tmp_path: Path) -> None:
    settings, wrong = minio.settings(bucket_of(tmp_path)), tmp_path / "wrong"
    wrong.write_text("certainly-wrong")
    for which in ("access", "secret"):
        name = f"minio_{which}_key_file"
        blobs = blobs_at({**settings, name: str(wrong)})
        for call in (blobs.check(), blobs.get("a"), blobs.exists("a"), blobs.put_if_absent("a", b"")):
            with pytest.raises(Unavailable, match=f"{which} key.*MILLSTREAM_{name.upper()}.*{wrong}"):
                await call
        with pytest.raises(Unavailable, match=f"MILLSTREAM_{name.upper()}=.*absent"):
            await blobs_at({**settings, name: str(tmp_path / "absent")}).check()


async def test_rotated_keys_need_no_restart(minio: Store, tmp_path: Path) -> None:
    settings, secret = minio.settings(bucket_of(tmp_path)), tmp_path / "secret"
    secret.write_text("certainly-wrong")
    blobs = blobs_at({**settings, "minio_secret_key_file": str(secret)})
    with pytest.raises(Unavailable):
        await blobs.check()
    secret.write_text(minio.secret_key_file.read_text())
    async with asyncio.timeout(HANG):
        while True:
            try:
                await blobs.check()
            except Unavailable:
                await asyncio.sleep(0.2)
            else:
                return


async def test_a_missing_bucket_is_made_or_named(minio: Store, tmp_path: Path) -> None:
    settings = minio.settings(bucket_of(tmp_path))
    with pytest.raises(Unavailable, match=f"bucket {bucket_of(tmp_path)} is missing.*MILLSTREAM_MINIO_CREATE_BUCKET"):
        await blobs_at({**settings, "minio_create_bucket": "false"}).check()
    made = await asyncio.gather(*(blobs_at(settings).put_if_absent("first", b"") for _ in range(8)))
    assert sum(made) == 1
    await blobs_at({**settings, "minio_create_bucket": "false"}).check()


async def test_the_rights_that_the_error_names_suffice_except_to_create_the_bucket(
    own_minio: Callable[..., Minio], tmp_path: Path
) -> None:
    store, (options, secret), source = own_minio(), (tmp_path / "access", tmp_path / "secret"), tmp_path / "source"
    admin = admin_of(store)
    admin.policy_add("least", policy=LEAST)
    admin.user_add("ada", "adas-secret")
    admin.policy_set("least", user="ada")
    options.write_text("ada")
    secret.write_text("adas-secret")
    keys_of_ada = {"minio_access_key_file": str(options), "minio_secret_key_file": str(secret)}
    blobs = blobs_at({**store.settings("facts"), **keys_of_ada})
    with pytest.raises(Unavailable, match="bucket facts is missing: create it, or grant s3:CreateBucket"):
        await blobs.check()
    await blobs_at(store.settings("facts")).check()
    await blobs.check()
    source.write_bytes(bytes(20 << 20))
    await blobs.upload("big", source)
    assert await blobs.put_if_absent("key", b"") and await blobs.exists("key") and await blobs.get("key") == b""
    await blobs.delete("key")
    assert await keys(blobs, "") == await everything(blobs.children("")) == ["big"]


async def test_a_wrong_region_is_named(own_minio: Callable[..., Minio], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIO_SITE_REGION", "eu-central-1")
    store = own_minio()
    with pytest.raises(Unavailable, match=r"MILLSTREAM_MINIO_REGION=us-east-1.*eu-central-1"):
        await blobs_at(store.settings("facts")).check()
    await blobs_at({**store.settings("facts"), "minio_region": "eu-central-1"}).check()


async def test_objects_that_no_key_can_name_are_not_listed(minio: Store, tmp_path: Path) -> None:
    blobs = blobs_at(minio.settings(bucket_of(tmp_path)))
    await blobs.put("a/b", b"")
    for strange in ("with space", ".hidden", "a/.x"):
        blobs._put(strange, b"")
    assert await keys(blobs, "") == ["a/b"]
    assert await everything(blobs.children("")) == ["a"]


def test_malformed_addresses_are_refused() -> None:
    for place in ("127.0.0.1:9000/bucket", "http://127.0.0.1:9000", "http:///bucket", "ftp://h/b", "http://h:x/bucket"):
        with pytest.raises(InvalidArgument, match=r"http://HOST:PORT/BUCKET"):
            open_blobs(Settings(blobs=f"minio:{place}"))
