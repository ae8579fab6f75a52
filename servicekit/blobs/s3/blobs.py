"""The object store in a bucket of MinIO, or of any S3 store that honours `If-None-Match: *` on a put.

Each call runs in a thread, and tries again for a while when the store is away. A put that is idempotent is simply done
again; a put_if_absent whose answer was lost is asked again too, and when the key is taken then, the object tells by the
id of its writer whether that was us. What a killed upload has left, the store collects (MinIO after a day; elsewhere a
lifecycle rule AbortIncompleteMultipartUpload).
"""

import asyncio
import base64
import hashlib
import io
import math
import os
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import urllib3
import xxhash
from minio import Minio

from millstream.errors import InvalidArgument, NotFound, Unavailable
from servicekit.backoff import backoff
from servicekit.blobs.port import CHUNK, SEGMENT, Listed, check_folder, check_key
from servicekit.blobs.s3.circuit import CircuitBreaker
from servicekit.blobs.s3.credentials import KeyFiles
from servicekit.blobs.s3.errors import (
    ABSENT,
    FAILURES,
    code_of,
    explain,
    is_passing,
    nothing_happened,
    refusal,
    was_silent,
)
from servicekit.blobs.s3.options import MinioOptions

T = TypeVar("T")

THREADS = 32
CONNECT_SECONDS, ANSWER_SECONDS, STREAM_SECONDS = 2.0, 4.0, 30.0
PATIENCE_SECONDS = 3.0
"""So long a call is tried again from its first failure on, or from when the store was first found away."""
PAUSE_SECONDS = 0.5
"""The longest between two tries."""
GONE = "was there and is gone, with every fact: bring it back, or end the platform and start it again to begin with nothing"
FRESH_SECONDS = 5.0
PAGE = 1000
PART = 8 << 20
WRITER, CHECKSUM = "x-amz-meta-writer", "x-amz-meta-xxh3"
_PLACE = re.compile(r"(https?)://([^/\s]+)/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?")
_KEY = re.compile(f"{SEGMENT}(/{SEGMENT})*")
_PREFIX = re.compile(f"({SEGMENT}/)*({SEGMENT})?")


class MinioBlobs:
    """Objects in the bucket that `place` names: `http://HOST:PORT/BUCKET`, or https. Raises InvalidArgument."""

    def __init__(self, place: str, options: MinioOptions) -> None:
        if not (parts := _PLACE.fullmatch(place)) or not _is_address(place):
            use = "use minio:http://HOST:PORT/BUCKET (or https), with 3 to 63 of a-z 0-9 . - as the bucket's name"
            raise InvalidArgument(f"minio:{place} is no store: {use}", field="MILLSTREAM_BLOBS")
        scheme, self._host, self.bucket = parts.groups()
        self.endpoint, self.options = f"{scheme}://{self._host}", options
        self._secure = scheme == "https"
        self._lock = threading.Lock()
        self._clients: dict[float, Minio] = {}
        self._pools: dict[float, urllib3.PoolManager] = {}
        self._keys = KeyFiles(options, self._unavailable) if options.access_key_file else None
        self._executor = ThreadPoolExecutor(THREADS, thread_name_prefix="minio")
        self._checked = -FRESH_SECONDS
        self._breaker = CircuitBreaker(PATIENCE_SECONDS, ANSWER_SECONDS)
        self._seen = False
        """The bucket has been there."""

    async def get(self, key: str) -> bytes:
        check_key(key)
        return await self._in_thread(lambda: b"".join(self._stream(key, ANSWER_SECONDS)))

    async def put(self, key: str, data: bytes) -> None:
        check_key(key)
        await self._in_thread(lambda: self._put(key, data))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        check_key(key)
        return await self._in_thread(lambda: self._put_if_absent(key, data))

    async def delete(self, key: str) -> None:
        check_key(key)
        await self._in_thread(lambda: self._try(lambda client: client.remove_object(self.bucket, key)))

    async def exists(self, key: str) -> bool:
        check_key(key)
        return await self._in_thread(lambda: self._stat(key) is not None)

    async def list(self, prefix: str, after: str = "") -> AsyncIterator[Listed]:
        if not _PREFIX.fullmatch(prefix):
            return
        while page := await self._in_thread(lambda last=after: self._page(prefix, last)):  # type: ignore[misc]
            for listed in page:
                if _KEY.fullmatch(listed.key):
                    yield listed
            after = page[-1].key

    async def children(self, prefix: str) -> AsyncIterator[str]:
        if not _PREFIX.fullmatch(check_folder(prefix)):
            return
        for name in await self._in_thread(lambda: self._names(prefix)):
            yield name

    async def upload(self, key: str, path: Path) -> None:
        check_key(key)
        await self._in_thread(lambda: self._upload(key, path))

    async def download(self, key: str, path: Path) -> None:
        check_key(key)
        await self._in_thread(lambda: self._download(key, path))

    async def read(self, key: str) -> AsyncIterator[bytes]:
        check_key(key)
        chunks = self._stream(key, STREAM_SECONDS)
        try:
            while chunk := await self._in_thread(lambda: next(chunks, b"")):
                yield chunk
        finally:
            with suppress(ValueError):  # a cancelled read is still running in its thread, and ends there
                chunks.close()

    async def check(self) -> None:
        if self._breaker.began or time.monotonic() - self._checked > FRESH_SECONDS:
            await self._in_thread(self._check)

    async def _in_thread(self, job: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def _client(self, seconds: float) -> Minio:
        """A client whose reads wait that long; made when first needed."""
        with self._lock:
            if seconds not in self._clients:
                self._pools[seconds] = self._open_pool(seconds)
                self._clients[seconds] = Minio(
                    self._host,
                    secure=self._secure,
                    region=self.options.region,
                    credentials=self._keys,
                    http_client=self._pools[seconds],
                )
            return self._clients[seconds]

    def _open_pool(self, seconds: float) -> urllib3.PoolManager:
        ca = self.options.ca_file
        if ca and not Path(ca).is_file():
            raise self._unavailable(f"cannot read MILLSTREAM_MINIO_CA_FILE={ca}: no such file")
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds)
        return urllib3.PoolManager(retries=False, timeout=timeout, maxsize=THREADS, ca_certs=ca or None)

    def _unavailable(self, text: str) -> Unavailable:
        return Unavailable(f"S3 store at {self.endpoint}: {text}", endpoint=self.endpoint, bucket=self.bucket)

    def _try(self, call: Callable[[Minio], T], seconds: float = ANSWER_SECONDS, key: str = "") -> T:
        """Call until it succeeds, fails for good, or the store was away for too long. Raises NotFound and Unavailable."""
        failing, tries = math.inf, 0
        while True:
            asked, seen = time.monotonic(), self._seen
            try:
                with self._breaker.asking():
                    found = call(self._client(seconds))
            except FAILURES as error:
                if is_passing(error):
                    failing, tries = min(failing, asked if was_silent(error) else time.monotonic()), tries + 1
                    self._wait(error, failing, tries)
                else:
                    self._breaker.over()
                    self._mend(error, key, seen)
            else:
                self._breaker.over()
                self._seen = True
                return found

    def _wait(self, error: Exception, failing: float, tries: int) -> None:
        """Until the next try of what has been failing since then. Raises Unavailable."""
        explained = explain(error, self.endpoint, self.bucket, self.options)
        if not self._breaker.is_worth_waiting(failing, explained):
            raise explained from error
        time.sleep(min(backoff(tries), PAUSE_SECONDS))

    def _mend(self, error: Exception, key: str, seen: bool) -> None:
        """Make the bucket, where it may just be missing. Raises NotFound and Unavailable for all else."""
        if code_of(error) in ABSENT:
            raise NotFound(f"no object {key}", key=key) from None
        if code_of(error) == "NoSuchBucket" and seen:
            raise self._unavailable(f"bucket {self.bucket} {GONE}") from error
        if code_of(error) != "NoSuchBucket" or not self.options.create_bucket:
            raise explain(error, self.endpoint, self.bucket, self.options) from error
        self._make_bucket()

    def _make_bucket(self) -> None:
        try:
            self._client(ANSWER_SECONDS).make_bucket(self.bucket)
        except FAILURES as error:
            if code_of(error) == "AccessDenied":
                raise self._unavailable(
                    f"bucket {self.bucket} is missing: create it, or grant s3:CreateBucket"
                ) from error
            if code_of(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise explain(error, self.endpoint, self.bucket, self.options) from error
        self._seen = True

    def _put(self, key: str, data: bytes) -> None:
        metadata: dict[str, Any] = {"xxh3": _checksum(data)}
        self._try(lambda client: client.put_object(self.bucket, key, io.BytesIO(data), len(data), metadata=metadata))

    def _put_if_absent(self, key: str, data: bytes) -> bool:
        """By a presigned URL, since the client's own put has no such condition."""
        writer, unsure = uuid4().hex, False
        query = {WRITER: writer, CHECKSUM: _checksum(data)}
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

        def once(client: Minio) -> bool | None:
            nonlocal unsure
            expires = timedelta(minutes=5)
            url = client.get_presigned_url("PUT", self.bucket, key, expires=expires, extra_query_params=dict(query))
            headers = {"If-None-Match": "*", "Content-MD5": md5}
            try:
                answer = self._pools[ANSWER_SECONDS].urlopen("PUT", url, body=data, headers=headers)
                if answer.status == 200:
                    return True
                if answer.status != 412:
                    raise refusal(answer)
            except FAILURES as error:
                unsure = unsure or not nothing_happened(error)
                raise
            return None if unsure else False

        while True:
            if (made := self._try(once)) is not None:
                return made
            if found := self._stat(key):  # else it was there and is gone: the key is free again
                return found.get(WRITER) == writer

    def _stat(self, key: str) -> Mapping[str, str] | None:
        """The object's headers, or None if it is not there."""
        try:
            found = self._try(lambda client: client.stat_object(self.bucket, key), key=key)
        except NotFound:
            return None
        return {name.lower(): value for name, value in (found.metadata or {}).items()}

    def _page(self, prefix: str, after: str) -> Sequence[Listed]:
        def listed(client: Minio) -> Sequence[Listed]:
            found = client.list_objects(self.bucket, prefix, recursive=True, start_after=after or None)
            return [_listed(item) for item in islice(found, PAGE)]

        return self._try(listed)

    def _names(self, prefix: str) -> Sequence[str]:
        """The store gives the objects and the folders of a page apart; in order of key a folder sorts as `name/`."""

        def names(client: Minio) -> Sequence[str]:
            found = [item.object_name or "" for item in client.list_objects(self.bucket, prefix)]
            return [n.removesuffix("/") for n in sorted(name[len(prefix) :] for name in found) if _PREFIX.fullmatch(n)]

        return self._try(names)

    def _upload(self, key: str, path: Path) -> None:
        with path.open("rb") as file:
            size, checksum = 0, xxhash.xxh3_64()
            while block := file.read(CHUNK):
                size += len(block)
                checksum.update(block)

            def put(client: Minio) -> None:
                file.seek(0)
                metadata: dict[str, Any] = {"xxh3": checksum.hexdigest()}
                client.put_object(
                    self.bucket, key, file, size, metadata=metadata, part_size=PART, num_parallel_uploads=3
                )

            self._try(put, STREAM_SECONDS)

    def _download(self, key: str, path: Path) -> None:
        beside = path.with_name(f".{uuid4().hex}.part")
        chunks = self._stream(key, STREAM_SECONDS)
        try:
            first = next(chunks, b"")
            with beside.open("xb") as file:
                _write(file, first, chunks)
            os.replace(beside, path)
        except OSError as error:
            raise Unavailable(f"{path}: {error.strerror or error}; free space or let us write there") from error
        finally:
            beside.unlink(missing_ok=True)

    def _stream(self, key: str, seconds: float) -> Generator[bytes, None, None]:
        """The object in chunks. Where the wire breaks it goes on at the same place, in the same version of the object."""
        got, checksum, version, told = 0, xxhash.xxh3_64(), "", ""
        failing, tries = math.inf, 0
        while True:
            headers = {"Range": f"bytes={got}-", "If-Match": version} if got else {}
            try:
                answer = self._try(
                    lambda client, asked=headers: client.get_object(  # type: ignore[misc]
                        self.bucket, key, request_headers=asked
                    ),
                    seconds,
                    key,
                )
            except Unavailable as error:
                if code_of(error.__cause__ or error) == "PreconditionFailed":
                    raise self._unavailable(f"{key} was replaced while it was being read: read it again") from None
                raise
            version, told = answer.headers.get("ETag", ""), answer.headers.get(CHECKSUM, "")
            try:
                while chunk := answer.read(CHUNK):
                    got += len(chunk)
                    checksum.update(chunk)
                    failing, tries = math.inf, 0
                    yield chunk
                break
            except FAILURES as error:
                failing, tries = min(failing, time.monotonic()), tries + 1
                self._wait(error, failing, tries)
            finally:
                answer.close()
                answer.release_conn()
        if told and told != checksum.hexdigest():
            raise self._unavailable(f"{key} is not what was stored (its XXH3 checksum differs): look at its disks")

    def _check(self) -> None:
        """List, write, read and remove what no key can name. The listing is first, because what refuses it says why."""
        self._page(".check/", "")
        key, data = f".check/{uuid4().hex}", b"check"
        self._put(key, data)
        found = b"".join(self._stream(key, ANSWER_SECONDS))
        self._try(lambda client: client.remove_object(self.bucket, key))
        if found != data:
            raise self._unavailable("it does not give back what was written: look at its disks")
        self._checked = time.monotonic()


def _is_address(place: str) -> bool:
    with suppress(ValueError):
        return bool(urlsplit(place).hostname) and urlsplit(place).port != 0
    return False


def _checksum(data: bytes) -> str:
    return xxhash.xxh3_64_hexdigest(data)


def _listed(item: Any) -> Listed:
    return Listed(item.object_name, item.size or 0, item.last_modified.timestamp())


def _write(file: BinaryIO, first: bytes, chunks: Iterator[bytes]) -> None:
    file.write(first)
    for chunk in chunks:
        file.write(chunk)
