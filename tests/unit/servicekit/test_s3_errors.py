"""Which errors of an S3 store are retried, and how the others are explained."""

import pytest
from minio.error import InvalidResponseError, S3Error
from urllib3 import HTTPResponse
from urllib3.exceptions import IncompleteRead, MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from millstream.errors import Unavailable
from servicekit.blobs.s3 import bucket as module
from servicekit.blobs.s3.bucket import DENIED_RETRIES, Bucket
from servicekit.blobs.s3.errors import explain, had_no_effect, is_transient, refusal, was_timeout
from servicekit.blobs.s3.options import MinioOptions
from tests.worlds.clock import Clock

XML = b"<Error><Code>%s</Code><Message>%s</Message></Error>"


def refused(code: str, message: str = "", status: int = 500) -> S3Error | InvalidResponseError:
    """An error answer of a store."""
    body = XML % (code.encode(), message.encode())
    answer = HTTPResponse(body, {"Content-Type": "application/xml"}, status)
    return refusal(answer)


def refused_by_gateway(status: int) -> S3Error | InvalidResponseError:
    """An error answer of a gateway in front of a store."""
    return refusal(HTTPResponse(b"<html>Bad Gateway", {"Content-Type": "text/html"}, status))


def explained(error: BaseException) -> str:
    return explain(error, "http://h:1", "facts", MinioOptions()).text


@pytest.mark.parametrize(
    ("error", "passes", "nothing"),
    [
        (refused("SlowDown", status=503), True, True),
        (refused("InternalError"), True, False),
        (refused("AccessDenied", status=403), False, False),
        (refused("InternalError", "cause(no space left on device)"), False, False),
        (refused_by_gateway(502), True, False),
        (refused_by_gateway(404), False, False),
        (ProtocolError("Connection broken", IncompleteRead(1, 2)), True, False),
        (MaxRetryError(None, "/", NewConnectionError(None, "refused")), True, True),  # type: ignore[arg-type]
        (MaxRetryError(None, "/", ReadTimeoutError(None, "/", "late")), True, False),  # type: ignore[arg-type]
    ],
)
def test_transient_errors_and_those_that_certainly_had_no_effect(
    error: BaseException, passes: bool, nothing: bool
) -> None:
    assert (is_transient(error), had_no_effect(error)) == (passes, nothing)


def test_only_a_missing_answer_is_a_timeout() -> None:
    assert was_timeout(MaxRetryError(None, "/", ReadTimeoutError(None, "/", "late")))  # type: ignore[arg-type]
    assert not was_timeout(NewConnectionError(None, "refused"))  # type: ignore[arg-type]
    assert not was_timeout(refused("SlowDown"))


def test_a_full_disk_is_explained_whatever_its_code() -> None:
    for error in (refused("XMinioStorageFull", status=507), refused("InternalError", "cause(no space left on device)")):
        assert "no space left (XMinioStorageFull): free space on its disks" in explained(error)


def test_a_server_that_is_no_store_is_named_with_its_answer() -> None:
    assert "is no S3 store (" in explained(refused_by_gateway(404)) and "correct MILLSTREAM_BLOBS" in explained(
        refused_by_gateway(404)
    )


class Denying:
    """A request that is denied so often before it is answered."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def __call__(self, client: object) -> str:
        self.calls += 1
        if self.calls <= self.times:
            raise refused("AccessDenied", status=403)
        return "answered"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(module, "time", Clock())
    return Bucket("http://127.0.0.1:9/facts", MinioOptions())


def test_a_denial_that_passes_is_not_seen_by_the_caller(bucket: Bucket) -> None:
    assert bucket.call(Denying(DENIED_RETRIES)) == "answered"


def test_a_missing_right_is_named_after_a_few_tries_and_stops_no_other_call(bucket: Bucket) -> None:
    denying = Denying(1000)
    for calls in range(1, 6):
        with pytest.raises(Unavailable, match="access denied to bucket facts"):
            bucket.call(denying)
        assert denying.calls == calls * (1 + DENIED_RETRIES)
        assert bucket.call(Denying(0)) == "answered"
