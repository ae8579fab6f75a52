"""Errors of an S3 store: which to retry, and what each means to an operator."""

import ssl
from typing import Any

import urllib3
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, TimeoutError

from millstream.errors import Unavailable
from servicekit.blobs.s3.options import MinioOptions

FAILURES = (MinioException, HTTPError, ssl.SSLError)
"""Everything that a call of the client may raise."""

DENIED = "AccessDenied"
ABSENT = {"NoSuchKey", "NoSuchObject", "NoSuchVersion"}
BUSY = {
    *("SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError", "RequestTimeout"),
    *("OperationAborted", "ConditionalRequestConflict", "TooManyRequests"),
    *("XMinioServerNotInitialized", "XMinioBackendDown"),
}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
_HTTPS = "write https:// in MILLSTREAM_BLOBS"


def refusal(answer: BaseHTTPResponse) -> S3Error | InvalidResponseError:
    """The error of a refused request that did not go through the client, as the client would raise it."""
    kind = answer.headers.get("Content-Type", "")
    if "application/xml" in kind:
        return S3Error.fromxml(answer)
    return InvalidResponseError(answer.status, kind, answer.data.decode(errors="replace"))


def code_of(error: BaseException) -> str:
    """The store's error code, from the header where a HEAD has no body; "" for any other error."""
    if not isinstance(error, S3Error):
        return ""
    header = error.response.headers.get("X-Minio-Error-Code") if error.response is not None else None
    if "no space left on device" in str(error.message):
        return "XMinioStorageFull"  # MinIO reports an InternalError until its next check of the disk
    return str(header or error.code)


def had_no_effect(error: BaseException) -> bool:
    """Whether the request certainly had no effect: it never reached the store, or the store rejected it as busy."""
    if isinstance(error, MaxRetryError):
        return had_no_effect(error.reason) if error.reason else False
    if isinstance(error, NewConnectionError | urllib3.exceptions.ConnectTimeoutError):
        return True
    return code_of(error) in BUSY - {"InternalError", "RequestTimeout"}


def is_transient(error: BaseException) -> bool:
    """Whether to retry: the same call may succeed a moment later."""
    if isinstance(error, MaxRetryError):
        return error.reason is not None and is_transient(error.reason)
    if isinstance(error, urllib3.exceptions.SSLError | ssl.SSLError):
        return False
    if isinstance(error, ServerError):
        return True
    if isinstance(error, InvalidResponseError):
        return "Response code: 5" in str(error)  # from a gateway whose store is away
    return code_of(error) in BUSY or isinstance(error, NewConnectionError | ProtocolError | TimeoutError)


def was_timeout(error: BaseException) -> bool:
    """Whether the error is that no answer came in time."""
    if isinstance(error, MaxRetryError):
        return error.reason is not None and was_timeout(error.reason)
    return isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError)


def explain(error: BaseException, endpoint: str, bucket: str, options: MinioOptions) -> Unavailable:
    """The error as Unavailable, with what to do next."""
    return Unavailable(f"S3 store at {endpoint}: {_describe(error, bucket, options)}", endpoint=endpoint, bucket=bucket)


def _describe(error: BaseException, bucket: str, options: MinioOptions) -> str:
    code, text = code_of(error), str(error)
    if code:
        return _describe_code(code, error, bucket, options)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        ca = options.ca_file or "not set"
        return f"its certificate is not trusted: set MILLSTREAM_MINIO_CA_FILE ({ca}) to the authority that signed it"
    if "NO_CERTIFICATE_OR_CRL_FOUND" in text:
        return (
            f"there is no certificate in MILLSTREAM_MINIO_CA_FILE ({options.ca_file}): put the authority there, as PEM"
        )
    if "WRONG_VERSION_NUMBER" in text or "record layer" in text.lower():
        return "it does not speak TLS: write http:// in MILLSTREAM_BLOBS, or name its TLS port"
    if isinstance(error, InvalidResponseError) and "HTTPS" in text:
        return f"it speaks TLS: {_HTTPS}"
    if isinstance(error, InvalidResponseError):
        return f"the server there is no S3 store ({text[:120]}): correct MILLSTREAM_BLOBS"
    if isinstance(error, ProtocolError):
        return f"it closes connections ({text[:200]}): see its log, or {_HTTPS} if it speaks TLS"
    if isinstance(error, urllib3.exceptions.ReadTimeoutError):
        return "it does not answer in time: see its log, and check its disks"
    return f"cannot be reached ({text[:200]}): start it, or set MILLSTREAM_BLOBS"


def _describe_code(code: str, error: Any, bucket: str, options: MinioOptions) -> str:
    actor = options.access_key_file or "no access key: set MILLSTREAM_MINIO_ACCESS_KEY_FILE"
    if code == "InvalidAccessKeyId":
        return f"it does not know the access key in MILLSTREAM_MINIO_ACCESS_KEY_FILE ({actor}): put the right one there"
    if code == "SignatureDoesNotMatch":
        file = options.secret_key_file or "not set"
        return f"the secret key in MILLSTREAM_MINIO_SECRET_KEY_FILE ({file}) is wrong: put the right one there"
    if code == DENIED:
        rights = "s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
        return f"access denied to bucket {bucket} ({actor}): grant {rights} on it, or use other keys"
    if code == "NoSuchBucket":
        return f"bucket {bucket} is missing: create it, or set MILLSTREAM_MINIO_CREATE_BUCKET=true"
    if code in _FULL:
        return f"it has no space left ({code}): free space on its disks, or raise the quota of bucket {bucket}"
    if code in ("SlowDownRead", "SlowDownWrite"):
        return f"it cannot use its disks ({code}): check them, and see its log"
    if code == "AuthorizationHeaderMalformed":
        return f"it is of another region (MILLSTREAM_MINIO_REGION={options.region}): {error.message}"
    if code == "RequestTimeTooSkewed":
        return "its clock and this machine's differ by more than 15 minutes: correct the clocks"
    if code == "BadRequest":  # a HEAD has no body with more
        return f"it rejects the request: see its log, or {_HTTPS} if it speaks TLS"
    return f"{code}: {error.message or 'no message'} (bucket {bucket}); see its log"
