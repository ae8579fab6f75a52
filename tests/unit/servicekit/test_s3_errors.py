"""Which of a store's refusals pass by themselves, and what is said of those that do not."""

import pytest
from minio.error import InvalidResponseError, S3Error
from urllib3 import HTTPResponse
from urllib3.exceptions import IncompleteRead, MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from servicekit.blobs.s3.errors import explain, is_passing, nothing_happened, refusal, was_silent
from servicekit.blobs.s3.options import MinioOptions

XML = b"<Error><Code>%s</Code><Message>%s</Message></Error>"


def said(code: str, message: str = "", status: int = 500) -> S3Error | InvalidResponseError:
    """A refusal in the words of a store."""
    body = XML % (code.encode(), message.encode())
    answer = HTTPResponse(body, {"Content-Type": "application/xml"}, status)
    return refusal(answer)


def of_gateway(status: int) -> S3Error | InvalidResponseError:
    """A refusal of what stands before a store."""
    return refusal(HTTPResponse(b"<html>Bad Gateway", {"Content-Type": "text/html"}, status))


def words(error: BaseException) -> str:
    return explain(error, "http://h:1", "facts", MinioOptions()).text


@pytest.mark.parametrize(
    ("error", "passes", "nothing"),
    [
        (said("SlowDown", status=503), True, True),
        (said("InternalError"), True, False),
        (said("AccessDenied", status=403), False, False),
        (said("InternalError", "cause(no space left on device)"), False, False),
        (of_gateway(502), True, False),
        (of_gateway(404), False, False),
        (ProtocolError("Connection broken", IncompleteRead(1, 2)), True, False),
        (MaxRetryError(None, "/", NewConnectionError(None, "refused")), True, True),  # type: ignore[arg-type]
        (MaxRetryError(None, "/", ReadTimeoutError(None, "/", "late")), True, False),  # type: ignore[arg-type]
    ],
)
def test_what_passes_and_what_has_certainly_not_happened(error: BaseException, passes: bool, nothing: bool) -> None:
    assert (is_passing(error), nothing_happened(error)) == (passes, nothing)


def test_only_a_lack_of_any_answer_is_silence() -> None:
    assert was_silent(MaxRetryError(None, "/", ReadTimeoutError(None, "/", "late")))  # type: ignore[arg-type]
    assert not was_silent(NewConnectionError(None, "refused"))  # type: ignore[arg-type]
    assert not was_silent(said("SlowDown"))


def test_a_full_disk_is_told_as_one_whatever_its_code() -> None:
    for error in (said("XMinioStorageFull", status=507), said("InternalError", "cause(no space left on device)")):
        assert "no space left (XMinioStorageFull): free space on its disks" in words(error)


def test_what_is_no_store_is_told_with_what_it_said() -> None:
    assert "is no S3 store (" in words(of_gateway(404)) and "look at MILLSTREAM_BLOBS" in words(of_gateway(404))
