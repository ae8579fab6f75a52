"""gRPC channels that raise millstream.errors, send the token and the trace context, and set a deadline for unary calls.

`address` is one `host:port`, or several with commas between, used in turn (round robin).
"""

import asyncio
import ipaddress
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import grpc
from grpc import aio

from millstream.credentials import PLAINTEXT, Credentials
from millstream.defaults import is_address
from millstream.errors import InvalidArgument, from_rpc_error
from millstream.reopened import ReopenedAioChannel, ReopenedChannel
from millstream.trace import traceparent

log = logging.getLogger(__name__)
DEADLINE_SECONDS = 30.0
MAX_MESSAGE_BYTES = 16 << 20


_call_timeout: ContextVar[float | None] = ContextVar("call_timeout", default=None)


@contextmanager
def call_timeout(seconds: float) -> Iterator[None]:
    """Give every call that begins inside so many seconds, its retries and its whole stream counted; then DeadlineExceeded.

    Otherwise a call that is no stream has 30 s. Raises InvalidArgument for a number that is not above 0.
    """
    if not seconds > 0:
        raise InvalidArgument(f"a timeout of {seconds} s leaves no time: use a number above 0", field="seconds")
    before = _call_timeout.set(seconds)
    try:
        yield
    finally:
        _call_timeout.reset(before)


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


def checked_address(address: str) -> str:
    """The address. Raises InvalidArgument for a list that gRPC cannot use, and for an address without a port."""
    for one in address.split(","):
        if not is_address(one):
            text = f"address {one!r} is no host:port, such as 127.0.0.1:50051 or [::1]:50051"
            raise InvalidArgument(text, field="address")
    _target(address)
    return address


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


def check_loop(known: asyncio.AbstractEventLoop | None) -> asyncio.AbstractEventLoop:
    """The running event loop. Raises InvalidArgument if channels were opened in another: grpc binds them to it."""
    running = asyncio.get_running_loop()
    if known not in (None, running):
        raise InvalidArgument(
            "this AsyncClient was first used in another event loop: make one in each, inside one asyncio.run, or use Client"
        )
    return running


def _warn_of_clear(address: str, credentials: Credentials) -> None:
    """Who listens between here and another machine reads a token that goes without TLS."""
    has_token = credentials.token or credentials.token_file
    if has_token and not credentials.ca_file and not all(_is_loopback(_host(one)) for one in address.split(",")):
        log.warning("the token goes to %s in clear: set MILLSTREAM_TLS_CA_FILE, or Credentials.ca_file", address)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_channel(address: str, credentials: Credentials = PLAINTEXT, retry: bool = False) -> aio.Channel:
    """A channel for asyncio. `retry`: retry calls that end UNAVAILABLE, for about two seconds.

    Raises InvalidArgument for an address list that gRPC cannot use, and for a TLS file that cannot be used.
    """
    _warn_of_clear(address, credentials)
    target, options = _target(address), _options(retry)
    interceptors = [_AsyncUnary(credentials), _AsyncStream(credentials), _AsyncUpload(credentials)]
    if not (trusted := credentials.ssl()):
        return aio.insecure_channel(target, options=options, interceptors=interceptors)

    def opening(trusted: grpc.ChannelCredentials) -> aio.Channel:
        return aio.secure_channel(target, trusted, options=_named(address, options), interceptors=interceptors)

    return ReopenedAioChannel(credentials, trusted, opening)


def open_sync_channel(address: str, credentials: Credentials = PLAINTEXT, retry: bool = False) -> grpc.Channel:
    """A channel for threads; parameters and errors as for open_channel()."""
    _warn_of_clear(address, credentials)
    target, options, interceptor = _target(address), _options(retry), _Sync(credentials)
    if not (trusted := credentials.ssl()):
        return grpc.intercept_channel(grpc.insecure_channel(target, options=options), interceptor)

    def opening(trusted: grpc.ChannelCredentials) -> grpc.Channel:
        channel = grpc.secure_channel(target, trusted, options=_named(address, options))
        return grpc.intercept_channel(channel, interceptor)

    return ReopenedChannel(credentials, trusted, opening)


def _details(
    details: Any, credentials: Credentials, details_class: Callable[..., Any], deadline: float | None, **more: Any
) -> Any:
    metadata = [*(details.metadata or ()), ("traceparent", traceparent())]
    if token := credentials.bearer():
        metadata.append(("authorization", f"Bearer {token}"))
    timeout = next((limit for limit in (details.timeout, _call_timeout.get()) if limit is not None), deadline)
    return details_class(details.method, timeout, metadata, details.credentials, details.wait_for_ready, **more)


def _async_details(details: Any, credentials: Credentials, deadline: float | None) -> Any:
    found = _details(details, credentials, aio.ClientCallDetails, deadline)
    return found._replace(metadata=aio.Metadata(*found.metadata))


class _AsyncUnary(aio.UnaryUnaryClientInterceptor):
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        try:
            call = await continuation(_async_details(client_call_details, self.credentials, DEADLINE_SECONDS), request)
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
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        answers: list[aio.AioRpcError] = []
        try:
            call = await continuation(_async_details(client_call_details, self.credentials, None), request_iterator)
            call.add_done_callback(lambda ended: answers.append(_status_of(ended)))
            await call
            return call
        except aio.AioRpcError as error:
            # A write that fails after the server's refusal replaces it by one of the library's own (grpc/grpc#36066).
            refusal = next((answer for answer in answers if answer.details() != _FAILED_WRITE), error)
            raise from_rpc_error(refusal) from None


class _AsyncStream(aio.UnaryStreamClientInterceptor):
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        call = await continuation(_async_details(client_call_details, self.credentials, None), request)

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
    def __init__(self, credentials: Credentials) -> None:
        self.credentials = credentials

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._await(
            continuation(_details(client_call_details, self.credentials, _SyncDetails, DEADLINE_SECONDS), request)
        )

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return self._await(
            continuation(_details(client_call_details, self.credentials, _SyncDetails, None), request_iterator)
        )

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return self._responses(
            continuation(_details(client_call_details, self.credentials, _SyncDetails, None), request)
        )

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
