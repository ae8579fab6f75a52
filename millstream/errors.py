"""The tree of errors. A service raises one, gRPC carries it, and the caller catches the same class.

On the wire each is a gRPC status with `google.rpc.ErrorInfo` (reason, domain, metadata; AIP-193), and `BadRequest` or
`RetryInfo` where they apply. The text says what is wrong and what to do next.
"""

from collections.abc import Mapping
from typing import cast

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from millstream.timestamps import duration, seconds_of

DOMAIN = "millstream"
# gRPC drops a call whose trailing metadata is above 8 KiB; it holds a text up to three times, encoded.
MAX_TEXT_BYTES, MAX_NAME_BYTES = 1200, 200


class MillstreamError(Exception):
    """The parent of all. `reason` is UPPER_SNAKE and stable; `metadata` holds the names that the text mentions.

    `field` is the path of the wrong field ("": none), `retry_after` the seconds to wait (0: not given). `answered` is False
    where no service has raised it, but gRPC on the way to one.
    """

    answered = True
    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    default_reason = "INTERNAL"

    def __init__(
        self, text: str, *, reason: str = "", field: str = "", retry_after: float = 0.0, **metadata: str
    ) -> None:
        super().__init__(text)
        self.text = text
        self.reason = reason or self.default_reason
        self.field = field
        self.retry_after = retry_after
        self.metadata: Mapping[str, str] = metadata


class InvalidArgument(MillstreamError):
    """The request itself is wrong; `field` names the part. A retry cannot help."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    default_reason = "INVALID_ARGUMENT"


class Unauthenticated(MillstreamError):
    """No token, or an unknown one."""

    code = grpc.StatusCode.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"


class PermissionDenied(MillstreamError):
    """A valid token whose role does not allow the call."""

    code = grpc.StatusCode.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class NotFound(MillstreamError):
    """What the request names does not exist, or not yet."""

    code = grpc.StatusCode.NOT_FOUND
    default_reason = "NOT_FOUND"


class FailedPrecondition(MillstreamError):
    """Something else must happen first; the text says what."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    default_reason = "FAILED_PRECONDITION"


class AlreadyExists(MillstreamError):
    """It exists with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS
    default_reason = "ALREADY_EXISTS"


class Conflict(MillstreamError):
    """A concurrent change came first (optimistic locking): read again, then decide again."""

    code = grpc.StatusCode.ABORTED
    default_reason = "CONFLICT"


class Overloaded(MillstreamError):
    """The service sheds load (backpressure); retry after `retry_after` seconds."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    default_reason = "OVERLOADED"


class Unavailable(MillstreamError):
    """A service or a dependency does not answer now; retry with backoff."""

    code = grpc.StatusCode.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(MillstreamError):
    """The caller's timeout passed before the answer."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class DataLoss(MillstreamError):
    """A stored object is damaged; `metadata["key"]` names it. Restore it from a backup; nothing has to be restarted."""

    code = grpc.StatusCode.DATA_LOSS
    default_reason = "DATA_LOSS"


class Internal(MillstreamError):
    """A bug in the service; its log has the traceback."""


_BY_CODE: dict[grpc.StatusCode, type[MillstreamError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        Unauthenticated,
        PermissionDenied,
        NotFound,
        FailedPrecondition,
        AlreadyExists,
        Conflict,
        Overloaded,
        Unavailable,
        DeadlineExceeded,
        DataLoss,
        Internal,
    )
}
# Statuses that only grpc itself sets: a peer that stops, and one too old to know the method.
_BY_CODE |= dict.fromkeys((grpc.StatusCode.CANCELLED, grpc.StatusCode.UNIMPLEMENTED), Unavailable)
_CODE_NUMBERS = {code: int(code.value[0]) for code in grpc.StatusCode}


def to_status(error: MillstreamError) -> status_pb2.Status:
    """The error as google.rpc.Status with its details. Long texts are cut, so that it fits into the trailing metadata."""
    text = _cut(error.text, MAX_TEXT_BYTES)
    metadata = {name: _cut(value, MAX_NAME_BYTES) for name, value in error.metadata.items()}
    details = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)]
    if error.field:
        field = _cut(error.field, MAX_NAME_BYTES)
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    if error.retry_after:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.CopyFrom(duration(error.retry_after))
        details.append(retry)
    status = status_pb2.Status(code=_CODE_NUMBERS[error.code], message=text)
    for detail in details:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def from_rpc_error(error: grpc.RpcError) -> MillstreamError:
    """The error that the server raised; a status without our details becomes the class of its code."""
    code, text = error.code(), error.details() or ""
    kind = _BY_CODE.get(code, Internal)
    if code == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        kind = InvalidArgument  # grpc itself rejected a message above its size limit: a retry cannot help
    if unknown := code == grpc.StatusCode.UNIMPLEMENTED:
        text = "a service is of an older version, which does not know this call: upgrade it"
    rebuilt = kind(text or f"the call ended with {code.name}")
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except (ValueError, AttributeError):
        status = None
    rebuilt.answered = status is not None or unknown
    for packed in status.details if status else ():
        _read_detail(packed, rebuilt)
    return rebuilt


def _cut(text: str, size: int) -> str:
    data = str(text).encode(errors="replace")
    return data.decode() if len(data) <= size else f"{data[:size].decode(errors='ignore')}…"


def _read_detail(packed: any_pb2.Any, error: MillstreamError) -> None:
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    if packed.Unpack(info):
        error.reason, error.metadata = info.reason, dict(info.metadata)
    elif packed.Unpack(bad) and bad.field_violations:
        error.field = bad.field_violations[0].field
    elif packed.Unpack(retry):
        error.retry_after = seconds_of(retry.retry_delay)


def status_code_of(error: BaseException) -> str:
    """The gRPC code's name, for logs and metrics; INTERNAL for an exception of another kind."""
    return error.code.name if isinstance(error, MillstreamError) else code_pb2.Code.Name(code_pb2.INTERNAL)
