"""gRPC channels that raise millstream.errors, send the token and the trace context, and set a deadline for unary calls.

`address` is one `host:port`, or several with commas between, used in turn (round robin).
"""

import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc
from grpc import aio

from millstream.errors import InvalidArgument, from_rpc_error
from millstream.trace import traceparent

DEADLINE_SECONDS = 30.0
MAX_MESSAGE_BYTES = 16 << 20


@dataclass(frozen=True)
class Credentials:
    """A channel's token and TLS files (PEM). `ca_file` "": plaintext. `cert_file` and `key_file`: mutual TLS.

    Raises InvalidArgument for a token that cannot be sent, and for a certificate without its key or the reverse.
    """

    token: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""

    def __post_init__(self) -> None:
        if not (self.token.isascii() and self.token.isprintable()):
            raise InvalidArgument(
                "the token must be one line of printable ASCII characters; MILLSTREAM_TOKEN_FILE names its file",
                field="token",
            )
        if bool(self.cert_file) != bool(self.key_file):
            raise InvalidArgument(
                "a client certificate and its key go together: set MILLSTREAM_TLS_CLIENT_CERT_FILE and "
                "MILLSTREAM_TLS_CLIENT_KEY_FILE, or neither",
                field="cert_file" if self.key_file else "key_file",
            )

    @classmethod
    def from_files(cls, token_file: str = "", ca_file: str = "", cert_file: str = "", key_file: str = "") -> Self:
        """Credentials with the token read from a file; `token_file` "": none. Raises InvalidArgument if it is unreadable."""
        # Bytes that are not ASCII make a token that is refused.
        token = _read(token_file, "token_file", "TOKEN_FILE").decode(errors="replace").strip() if token_file else ""
        return cls(token, ca_file, cert_file, key_file)

    @classmethod
    def from_env(cls, environment: Mapping[str, str]) -> Self:
        """Credentials from MILLSTREAM_TOKEN_FILE and MILLSTREAM_TLS_{CA,CLIENT_CERT,CLIENT_KEY}_FILE, each may be unset.

        Raises InvalidArgument for a token file that cannot be read or sent.
        """
        names = ("TOKEN_FILE", "TLS_CA_FILE", "TLS_CLIENT_CERT_FILE", "TLS_CLIENT_KEY_FILE")
        return cls.from_files(*(environment.get(f"MILLSTREAM_{name}", "") for name in names))

    def ssl(self) -> grpc.ChannelCredentials | None:
        """gRPC's TLS credentials; None without a `ca_file`: plaintext. Raises InvalidArgument for an unreadable file."""
        if not self.ca_file:
            return None
        authorities = _read(self.ca_file, "ca_file", "TLS_CA_FILE")
        if not self.cert_file:
            return grpc.ssl_channel_credentials(authorities)
        key = _read(self.key_file, "key_file", "TLS_CLIENT_KEY_FILE")
        return grpc.ssl_channel_credentials(
            authorities, key, _read(self.cert_file, "cert_file", "TLS_CLIENT_CERT_FILE")
        )


def _read(path: str, field: str, variable: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        text = f"cannot read {path}: {error.strerror}; MILLSTREAM_{variable} names it"
        raise InvalidArgument(text, field=field) from None


# Only for callers whose requests are all idempotent.
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


def _options(retry: bool) -> list[tuple[str, Any]]:
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [{"name": [{}], "retryPolicy": _RETRY}] if retry else [],
    }
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.initial_reconnect_backoff_ms", 50),
        ("grpc.min_reconnect_backoff_ms", 50),
        ("grpc.max_reconnect_backoff_ms", 1000),
        ("grpc.keepalive_time_ms", 30000),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.enable_http_proxy", 0),
    ]


def _target(address: str) -> str:
    """The target for gRPC. A list needs its ipv4/ipv6 resolver, which takes IP addresses only."""
    if "," not in address:
        return address
    hosts = [_host(one) for one in address.split(",")]
    try:
        (version,) = {ipaddress.ip_address(host).version for host in hosts}
    except ValueError:
        text = f"{address}: a list takes IP addresses of one kind; for names give one that resolves to all replicas"
        raise InvalidArgument(text, field="address") from None
    return f"ipv{version}:{address}"


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _named(address: str, options: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """TLS checks a list against one host name, that of its first address: every replica's certificate must name it."""
    return [*options, ("grpc.default_authority", _host(address.partition(",")[0]))] if "," in address else options


def open_channel(address: str, credentials: Credentials = Credentials(), retry: bool = False) -> aio.Channel:
    """A channel for asyncio. `retry`: retry calls that end UNAVAILABLE, for about two seconds.

    Raises InvalidArgument for an address list that gRPC cannot use, and for a TLS file that cannot be read.
    """
    interceptors = [_AsyncUnary(credentials.token), _AsyncStream(credentials.token), _AsyncUpload(credentials.token)]
    if ssl := credentials.ssl():
        return aio.secure_channel(
            _target(address), ssl, options=_named(address, _options(retry)), interceptors=interceptors
        )
    return aio.insecure_channel(_target(address), options=_options(retry), interceptors=interceptors)


def open_sync_channel(address: str, credentials: Credentials = Credentials(), retry: bool = False) -> grpc.Channel:
    """A channel for threads; parameters and errors as for open_channel()."""
    if ssl := credentials.ssl():
        channel = grpc.secure_channel(_target(address), ssl, options=_named(address, _options(retry)))
    else:
        channel = grpc.insecure_channel(_target(address), options=_options(retry))
    return grpc.intercept_channel(channel, _Sync(credentials.token))


def _details(details: Any, token: str, details_class: Callable[..., Any], deadline: float | None, **more: Any) -> Any:
    metadata = [*(details.metadata or ()), ("traceparent", traceparent())]
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    timeout = details.timeout if details.timeout is not None else deadline
    return details_class(details.method, timeout, metadata, details.credentials, details.wait_for_ready, **more)


def _async_details(details: Any, token: str, deadline: float | None) -> Any:
    found = _details(details, token, aio.ClientCallDetails, deadline)
    return found._replace(metadata=aio.Metadata(*found.metadata))


class _AsyncUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self.token = token

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            call = await continuation(_async_details(client_call_details, self.token, DEADLINE_SECONDS), request)
            return await call
        except aio.AioRpcError as error:
            raise from_rpc_error(error) from None


_FAILED_WRITE = "Internal error from Core"


def _status_of(ended: aio.Call) -> aio.AioRpcError:
    """The status that an ended call has at this moment, as the error that it is unless its code is OK."""
    code, details, trailing = _now(ended.code()), _now(ended.details()), _now(ended.trailing_metadata())
    return aio.AioRpcError(code, aio.Metadata(), trailing, details)


def _now(ready: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for."""
    try:
        ready.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("the call has no status yet")


class _AsyncUpload(aio.StreamUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self.token = token

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        answers: list[aio.AioRpcError] = []
        try:
            call = await continuation(_async_details(client_call_details, self.token, None), request_iterator)
            call.add_done_callback(lambda ended: answers.append(_status_of(ended)))
            await call
            return call
        except aio.AioRpcError as error:
            # A write that fails after the server's refusal replaces it by one of the library's own (grpc/grpc#36066).
            refusal = next((answer for answer in answers if answer.details() != _FAILED_WRITE), error)
            raise from_rpc_error(refusal) from None


class _AsyncStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, token: str) -> None:
        self.token = token

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(_async_details(client_call_details, self.token, None), request)

        async def responses() -> AsyncIterator[Any]:
            try:
                async for response in call:
                    yield response
            except aio.AioRpcError as error:
                raise from_rpc_error(error) from None
            finally:
                call.cancel()

        return responses()


class _SyncDetails(grpc.ClientCallDetails):
    def __init__(
        self, method: str, timeout: Any, metadata: Any, credentials: Any, wait_for_ready: Any, **_: Any
    ) -> None:
        self.method, self.timeout, self.metadata = method, timeout, metadata
        self.credentials, self.wait_for_ready, self.compression = credentials, wait_for_ready, None


class _Sync(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamUnaryClientInterceptor):
    def __init__(self, token: str) -> None:
        self.token = token

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._await(
            continuation(_details(client_call_details, self.token, _SyncDetails, DEADLINE_SECONDS), request)
        )

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._await(
            continuation(_details(client_call_details, self.token, _SyncDetails, None), request_iterator)
        )

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._responses(continuation(_details(client_call_details, self.token, _SyncDetails, None), request))

    @staticmethod
    def _responses(call: Any) -> Iterator[Any]:
        try:
            yield from call
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        finally:
            call.cancel()

    @staticmethod
    def _await(call: Any) -> Any:
        try:
            call.result()
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None
        return call
