"""One bucket of an S3 store: connections, retries behind a circuit breaker, and the bucket's creation. All of it blocks."""

import math
import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3
from minio import Minio

from millstream.errors import InvalidArgument, NotFound, Unavailable
from servicekit.backoff import backoff
from servicekit.blobs.port import CALLS, TRANSFERS
from servicekit.blobs.s3.circuit import CircuitBreaker
from servicekit.blobs.s3.credentials import KeyFiles
from servicekit.blobs.s3.errors import ABSENT, DENIED, FAILURES, code_of, explain, is_transient, was_timeout
from servicekit.blobs.s3.options import MinioOptions

T = TypeVar("T")

CONNECTIONS = CALLS + TRANSFERS
CONNECT_SECONDS, ANSWER_SECONDS, STREAM_SECONDS = 2.0, 4.0, 30.0
"""Timeouts: to connect, to read an ordinary answer, and to read a part of a long one."""
RETRY_SECONDS = 3.0
"""How long a call is retried, counted from its first failure or from the store's, whichever was earlier."""
LONGEST_PAUSE_SECONDS = 0.5
DENIED_RETRIES = 4
"""How often a denied call is retried: MinIO denies a put whose folder a delete beside it removes (ADR 0011)."""
GONE = "existed and is gone, with all its data: restore it, or restart the platform to begin with an empty one"
_PLACE = re.compile(r"(https?)://([^/\s]+)/([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?")


class Bucket:
    """The bucket that `place` names: `http://HOST:PORT/BUCKET`, or https. Raises InvalidArgument for any other address."""

    def __init__(self, place: str, options: MinioOptions) -> None:
        if not (parts := _PLACE.fullmatch(place)) or not _is_address(place):
            use = "use minio:http://HOST:PORT/BUCKET (or https), with 3 to 63 of a-z 0-9 . - as the bucket's name"
            raise InvalidArgument(f"minio:{place} is no store: {use}", field="MILLSTREAM_BLOBS")
        scheme, self._host, self.name = parts.groups()
        self.endpoint, self.options = f"{scheme}://{self._host}", options
        self.breaker = CircuitBreaker(RETRY_SECONDS, ANSWER_SECONDS)
        self._secure = scheme == "https"
        self._lock = threading.Lock()
        self._clients: dict[float, Minio] = {}
        self._pools: dict[float, urllib3.PoolManager] = {}
        self._keys = KeyFiles(options, self.unavailable) if options.access_key_file else None
        self._existed = False
        """Whether a request found the bucket since this process started."""

    def unavailable(self, text: str) -> Unavailable:
        """An Unavailable whose text names the store."""
        return Unavailable(f"S3 store at {self.endpoint}: {text}", endpoint=self.endpoint, bucket=self.name)

    def explain(self, error: BaseException) -> Unavailable:
        """The client's error as Unavailable, with what to do next."""
        return explain(error, self.endpoint, self.name, self.options)

    def call(self, request: Callable[[Minio], T], seconds: float = ANSWER_SECONDS, key: str = "") -> T:
        """Retry the request until it succeeds or cannot; `seconds` is its read timeout. Raises NotFound and Unavailable."""
        failing_since, tries, denials = math.inf, 0, 0
        while True:
            started, existed = time.monotonic(), self._existed
            try:
                with self.breaker.attempt():
                    answer = request(self._client(seconds))
            except FAILURES as error:
                if is_transient(error):
                    failed_at = started if was_timeout(error) else time.monotonic()
                    failing_since, tries = min(failing_since, failed_at), tries + 1
                    self.pause(error, failing_since, tries)
                else:
                    self.breaker.record_answer()
                    if code_of(error) == DENIED and denials < DENIED_RETRIES:
                        denials += 1
                        time.sleep(backoff(denials))
                    else:
                        self._create_if_missing(error, key, existed)
            else:
                self.breaker.record_answer()
                self._existed = True
                return answer

    def pause(self, error: Exception, failing_since: float, tries: int) -> None:
        """Sleep before the next try of a call. Raises Unavailable when its tries are over."""
        explained = self.explain(error)
        if not self.breaker.record_failure(failing_since, explained):
            raise explained from error
        time.sleep(min(backoff(tries), LONGEST_PAUSE_SECONDS))

    def put_at(self, url: str, data: bytes, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        """Put to a presigned URL, over the connections of an ordinary call."""
        return self._pools[ANSWER_SECONDS].urlopen("PUT", url, body=data, headers=headers)

    def _client(self, seconds: float) -> Minio:
        """The client with that read timeout, made when first needed."""
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
            raise self.unavailable(f"cannot read MILLSTREAM_MINIO_CA_FILE={ca}: no such file")
        timeout = urllib3.Timeout(connect=CONNECT_SECONDS, read=seconds)
        return urllib3.PoolManager(retries=False, timeout=timeout, maxsize=CONNECTIONS, ca_certs=ca or None)

    def _create_if_missing(self, error: Exception, key: str, existed: bool) -> None:
        """Create the bucket if that is all that was wrong. Raises NotFound, and Unavailable for any other error."""
        if code_of(error) in ABSENT:
            raise NotFound(f"no object {key}", key=key) from None
        if code_of(error) == "NoSuchBucket" and existed:
            raise self.unavailable(f"bucket {self.name} {GONE}") from error
        if code_of(error) != "NoSuchBucket" or not self.options.create_bucket:
            raise self.explain(error) from error
        self._create()

    def _create(self) -> None:
        try:
            self._client(ANSWER_SECONDS).make_bucket(self.name)
        except FAILURES as error:
            if code_of(error) == DENIED:
                text = f"bucket {self.name} is missing: create it, or grant s3:CreateBucket"
                raise self.unavailable(text) from error
            if code_of(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise self.explain(error) from error
        self._existed = True


def _is_address(place: str) -> bool:
    with suppress(ValueError):
        return bool(urlsplit(place).hostname) and urlsplit(place).port != 0
    return False
