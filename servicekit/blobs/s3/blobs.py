"""The object store in a bucket of MinIO, or of any S3 store that honours `If-None-Match: *` on a put.

Each call runs in a thread and is retried while the store is away (bucket.py). Every put is idempotent. The store removes
what a killed upload left: MinIO after a day, others by a lifecycle rule AbortIncompleteMultipartUpload.
"""

import io
import re
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import xxhash
from minio import Minio
from typing_extensions import override

from servicekit.blobs.port import CALLS, CHUNK, SEGMENT, TRANSFERS, Blobs, Listed, check_folder, check_key
from servicekit.blobs.s3 import transfer
from servicekit.blobs.s3.bucket import ANSWER_SECONDS, STREAM_SECONDS, Bucket
from servicekit.blobs.s3.options import MinioOptions
from servicekit.pools import Pool

FRESH_SECONDS = 5.0
"""A successful check() is valid for this time, unless a call failed since."""
PAGE = 1000
PART = 8 << 20
_KEY = re.compile(f"{SEGMENT}(/{SEGMENT})*")
_PREFIX = re.compile(f"({SEGMENT}/)*({SEGMENT})?")


class MinioBlobs(Blobs):
    """Objects in the bucket that `place` names: `http://HOST:PORT/BUCKET`, or https. Raises InvalidArgument."""

    def __init__(self, place: str, options: MinioOptions) -> None:
        self.bucket = Bucket(place, options)
        self._calls, self._transfers = Pool("s3-calls", CALLS), Pool("s3-transfers", TRANSFERS)
        self._checked = -FRESH_SECONDS

    @override
    async def get(self, key: str) -> bytes:
        check_key(key)
        return await self._calls.run(lambda: b"".join(transfer.stream(self.bucket, key, ANSWER_SECONDS)))

    @override
    async def put(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._calls.run(lambda: self._put(key, data))

    @override
    async def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        return await self._calls.run(lambda: transfer.put_if_absent(self.bucket, key, data))

    @override
    async def delete(self, key: str) -> None:
        check_key(key)
        await self._calls.run(lambda: self._delete(key))

    @override
    async def exists(self, key: str) -> bool:
        check_key(key)
        return await self._calls.run(lambda: transfer.stat(self.bucket, key) is not None)

    @override
    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        if not _PREFIX.fullmatch(prefix):
            return
        while True:
            page = await self._calls.run(partial(self._page, prefix, after))
            for listed in page:
                if _KEY.fullmatch(listed.key):
                    yield listed
            if len(page) < PAGE:
                return
            after = page[-1].key

    @override
    async def children(self, prefix: str) -> AsyncIterator[str]:
        if not _PREFIX.fullmatch(check_folder(prefix)):
            return
        for name in await self._calls.run(lambda: self._names(prefix)):
            yield name

    @override
    async def upload(self, key: str, path: Path) -> None:
        check_key(key)
        await self._transfers.run(lambda: self._upload(key, path))

    @override
    async def download(self, key: str, path: Path) -> None:
        check_key(key)
        await self._transfers.run(lambda: transfer.download(self.bucket, key, path))

    @override
    async def read(self, key: str) -> AsyncIterator[bytes]:
        check_key(key)
        chunks = transfer.stream(self.bucket, key, STREAM_SECONDS)
        try:
            while chunk := await self._transfers.run(lambda: next(chunks, b"")):
                yield chunk
        finally:
            with suppress(ValueError):  # a cancelled read is still running in its thread, and ends there
                chunks.close()

    @override
    async def check(self) -> None:
        if self.bucket.breaker.failing_since or time.monotonic() - self._checked > FRESH_SECONDS:
            await self._calls.run(self._check)

    def _put(self, key: str, data: bytes) -> None:
        name, metadata = self.bucket.name, dict[str, Any](xxh3=transfer.checksum_of(data))
        self.bucket.call(lambda client: client.put_object(name, key, io.BytesIO(data), len(data), metadata=metadata))

    def _delete(self, key: str) -> None:
        self.bucket.call(lambda client: client.remove_object(self.bucket.name, key))

    def _page(self, prefix: str, after: str) -> Sequence[Listed]:
        def listed(client: Minio) -> Sequence[Listed]:
            found = client.list_objects(self.bucket.name, prefix, recursive=True, start_after=after or None)
            return [_listed(item) for item in islice(found, PAGE)]

        return self.bucket.call(listed)

    def _names(self, prefix: str) -> Sequence[str]:
        """The store lists a page's objects and folders apart; sorted by key a folder counts as `name/`."""

        def names(client: Minio) -> Sequence[str]:
            found = [item.object_name or "" for item in client.list_objects(self.bucket.name, prefix)]
            return [n.removesuffix("/") for n in sorted(name[len(prefix) :] for name in found) if _PREFIX.fullmatch(n)]

        return self.bucket.call(names)

    def _upload(self, key: str, path: Path) -> None:
        with path.open("rb") as file:
            size, checksum = 0, xxhash.xxh3_64()
            while block := file.read(CHUNK):
                size += len(block)
                checksum.update(block)
            name, metadata = self.bucket.name, dict[str, Any](xxh3=checksum.hexdigest())

            def put(client: Minio) -> None:
                file.seek(0)
                client.put_object(name, key, file, size, metadata=metadata, part_size=PART, num_parallel_uploads=3)

            self.bucket.call(put, STREAM_SECONDS)

    def _check(self) -> None:
        """List, write, read and delete an object that no key can name. The listing comes first: its error says most."""
        self._page(".check/", "")
        key, data = f".check/{uuid4().hex}", b"check"
        self._put(key, data)
        found = b"".join(transfer.stream(self.bucket, key, ANSWER_SECONDS))
        self._delete(key)
        if found != data:
            raise self.bucket.unavailable("it does not return what was written: check its disks")
        self._checked = time.monotonic()


def _listed(item: Any) -> Listed:
    return Listed(item.object_name, item.size or 0, item.last_modified.timestamp())
