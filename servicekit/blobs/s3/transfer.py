"""Reads and conditional writes of one object: a streaming download that resumes, and put-if-absent. All of it blocks."""

import base64
import hashlib
import math
import os
import time
from collections.abc import Generator, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import xxhash
from minio import Minio
from urllib3 import BaseHTTPResponse

from millstream.errors import NotFound, Unavailable
from servicekit.blobs.port import CHUNK
from servicekit.blobs.s3.bucket import STREAM_SECONDS, Bucket
from servicekit.blobs.s3.errors import FAILURES, code_of, had_no_effect, refusal

WRITER, CHECKSUM = "x-amz-meta-writer", "x-amz-meta-xxh3"
"""Headers of an object: the id of the put_if_absent() that wrote it, and the XXH3 checksum of its bytes in hex."""


def checksum_of(data: bytes) -> str:
    """The XXH3 checksum in hex."""
    return xxhash.xxh3_64_hexdigest(data)


def stat(bucket: Bucket, key: str) -> Mapping[str, str] | None:
    """The object's headers, names in lower case; None: there is no such object."""
    try:
        found = bucket.call(lambda client: client.stat_object(bucket.name, key), key=key)
    except NotFound:
        return None
    return {name.lower(): value for name, value in (found.metadata or {}).items()}


def put_if_absent(bucket: Bucket, key: str, data: bytes) -> bool:
    """Put with `If-None-Match: *` to a presigned URL, since the client's own put takes no condition.

    A put whose answer was lost is retried. If the key is taken then, the object's writer id shows whether this call took it.
    """
    writer, unsure = uuid4().hex, False
    query = {WRITER: writer, CHECKSUM: checksum_of(data)}
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()

    def put_once(client: Minio) -> bool | None:
        nonlocal unsure
        expires = timedelta(minutes=5)
        url = client.get_presigned_url("PUT", bucket.name, key, expires=expires, extra_query_params=dict(query))
        try:
            answer = bucket.put_at(url, data, {"If-None-Match": "*", "Content-MD5": md5})
            if answer.status == 200:
                return True
            if answer.status != 412:
                raise refusal(answer)
        except FAILURES as error:
            unsure = unsure or not had_no_effect(error)
            raise
        return None if unsure else False

    while True:
        if (created := bucket.call(put_once)) is not None:
            return created
        if found := stat(bucket, key):  # else it was deleted meanwhile: the key is free again
            return found.get(WRITER) == writer


def stream(bucket: Bucket, key: str, seconds: float) -> Generator[bytes, None, None]:
    """The object in chunks; after a broken connection it resumes at the same byte of the same version.

    Raises NotFound, and Unavailable also for an object that was replaced meanwhile or whose checksum differs.
    """
    received, checksum, version, stored = 0, xxhash.xxh3_64(), "", ""
    failing_since, tries = math.inf, 0
    while True:
        answer = _open(bucket, key, received, version, seconds)
        version, stored = answer.headers.get("ETag", ""), answer.headers.get(CHECKSUM, "")
        try:
            while chunk := answer.read(CHUNK):
                received += len(chunk)
                checksum.update(chunk)
                failing_since, tries = math.inf, 0
                yield chunk
            break
        except FAILURES as error:
            failing_since, tries = min(failing_since, time.monotonic()), tries + 1
            bucket.pause(error, failing_since, tries)
        finally:
            answer.close()
            answer.release_conn()
    if stored and stored != checksum.hexdigest():
        raise bucket.unavailable(f"{key} is not what was stored (its XXH3 checksum differs): check its disks")


def download(bucket: Bucket, key: str, path: Path) -> None:
    """stream() to a file that appears whole or not at all."""
    beside = path.with_name(f".{uuid4().hex}.part")
    chunks = stream(bucket, key, STREAM_SECONDS)
    try:
        first = next(chunks, b"")
        with beside.open("xb") as file:
            _write(file, first, chunks)
        os.replace(beside, path)
    except OSError as error:
        text = f"{path}: {error.strerror or error}; free space, or let this process write there"
        raise Unavailable(text) from error
    finally:
        beside.unlink(missing_ok=True)


def _open(bucket: Bucket, key: str, start: int, version: str, seconds: float) -> BaseHTTPResponse:
    headers = {"Range": f"bytes={start}-", "If-Match": version} if start else {}
    try:
        return bucket.call(
            lambda client: client.get_object(bucket.name, key, request_headers=dict(headers)), seconds, key
        )
    except Unavailable as error:
        if code_of(error.__cause__ or error) == "PreconditionFailed":
            raise bucket.unavailable(f"{key} was replaced while it was being read: read it again") from None
        raise


def _write(file: BinaryIO, first: bytes, chunks: Iterator[bytes]) -> None:
    file.write(first)
    for chunk in chunks:
        file.write(chunk)
