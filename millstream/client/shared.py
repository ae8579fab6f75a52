"""What both clients share. Nothing here does I/O."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from google.protobuf.json_format import MessageToDict

from millstream.dataset.v1.dataset_service_pb2 import ListRowsResponse
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DeadlineExceeded, InvalidArgument, Unavailable

PAGE = 200
"""Entries of one page that the client requests."""
UPLOAD_ATTEMPTS = 4
ImportMode = Literal["", "append", "replace"]


def new_request_id() -> str:
    """A UUID that makes a create idempotent: a retry with the same id gives the first answer again."""
    return str(uuid4())


def import_mode(name: str) -> Import.Mode.ValueType:
    """The mode of that name. Raises InvalidArgument."""
    modes = {"": Import.MODE_UNSPECIFIED, "append": Import.MODE_APPEND, "replace": Import.MODE_REPLACE}
    if name not in modes:
        raise InvalidArgument(f"mode is {name!r}: use append or replace", field="mode")
    return modes[name]


def exact_rows(page: ListRowsResponse) -> Iterator[dict[str, Any]]:
    """The rows of a page, each number as it was imported. A row that was cut gives its beginning and its length."""
    if len(page.texts) < len(page.rows):  # a dataprep of before `texts`
        yield from map(MessageToDict, page.rows)
    for text in page.texts:
        if text.cut:
            yield {"cut_row": text.json, "size_bytes": text.size_bytes}
        else:
            yield json.loads(text.json)


@dataclass
class WatchDeadline:
    """When a watch gives up: after `timeout` seconds in all (None: never), or `max_silence` seconds of failures.

    A stream that is quiet because nothing changes is no failure, however long it lasts before it breaks.
    """

    timeout: float | None
    unmet: str
    """What is not the case yet, as a clause for the error's text."""
    max_silence: float = 30.0
    started: float = field(default_factory=time.monotonic)
    tries: int = 0

    def __post_init__(self) -> None:
        self.failing_since: float | None = None

    def answered(self) -> None:
        """Note a change that the service reported: the silence and the backoff begin anew."""
        self.failing_since, self.tries = None, 0

    def remaining(self) -> float | None:
        """Seconds until the timeout; None without one. Raises DeadlineExceeded once there are none."""
        if self.timeout is None:
            return None
        remaining = self.started + self.timeout - time.monotonic()
        if remaining <= 0:
            raise DeadlineExceeded(f"after {self.timeout:g} s {self.unmet}; the work continues: watch again")
        return remaining

    def backoff(self, error: Unavailable | None = None) -> float:
        """Seconds to wait before the next call: exponential backoff, 0.1 to 1 s. Without an error the service has answered.

        Raises the error once all calls for `max_silence` seconds have failed, and DeadlineExceeded at the timeout.
        """
        now = time.monotonic()
        if error is None:
            self.failing_since = None
        elif now - (since := self.failing_since or now) > self.max_silence:
            raise error
        else:
            self.failing_since = since
        remaining = self.remaining()
        self.tries += 1
        pause: float = min(1.0, 0.05 * 2 ** min(self.tries, 5))
        return pause if remaining is None else min(pause, remaining)
