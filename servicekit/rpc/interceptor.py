"""The server's side of every RPC in one interceptor: authentication, limits, trace, deadline, errors, metrics.

Services are plain objects whose methods take a request and return a response, or yield responses. No message of a call is
received before the caller is known and there is room for the call: grpc sees every method as one that reads a stream of
bytes, and the interceptor reads, measures and parses.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from grpc import aio
from grpc_status import rpc_status
from typing_extensions import override

from millstream.channel import MAX_MESSAGE_BYTES
from millstream.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    MillstreamError,
    Overloaded,
    Unavailable,
    to_status,
)
from millstream.trace import continue_trace
from servicekit.limits import request_bytes
from servicekit.metrics import RPC_HANDLED, RPC_RECEIVED, RPC_SECONDS, RPC_SENT, RPC_STARTED
from servicekit.rpc.auth import OPEN, Tokens
from servicekit.rpc.caller import CALLER, DEADLINE
from servicekit.rpc.values import check_values

log = logging.getLogger(__name__)
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}
STOPPING = "this replica of the service is stopping: retry"
CALLS = 2000
"""Most calls in progress, unless a setting says otherwise."""
OPEN_STREAMS = 200
"""Most streams in progress of the services that need no token: health watches and reflection."""
REQUEST_SECONDS = 30.0
"""Seconds in which the request of a call must have arrived; the messages of an upload are not timed here."""
_ENDLESS = ("Watch", "Tail")
"""The beginnings of the names of endless streaming methods, which end when the server stops."""
_KINDS = {  # by whether requests and responses are streams
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class WithoutContext:
    """Adapts a service whose methods take the request alone to grpc, which calls them with a context too."""

    def __init__(self, service: object) -> None:
        self._service = service

    def __getattr__(self, name: str) -> Callable[[Any, Any], Any]:
        method = getattr(self._service, name)
        return lambda request, _context: method(request)


class _Room:
    """Counts the calls inside, up to a bound."""

    def __init__(self, most: int, what: str) -> None:
        self.most, self.what, self.inside = most, what, 0

    def enter(self) -> None:
        """Raises Overloaded when it is full."""
        if self.inside >= self.most:
            raise Overloaded(f"{self.what}: {self.most} are in progress; retry", retry_after=1.0)
        self.inside += 1

    def leave(self) -> None:
        self.inside -= 1


class ServerInterceptor(aio.ServerInterceptor):
    """Surrounds every call with what is in _CallScope; `watches` are the endless streams in progress.

    At most `calls` calls are in progress at once. Health and reflection do not count among them: their streams have a
    bound of their own, and their other calls end by themselves.
    """

    def __init__(self, tokens: Tokens, calls: int = CALLS, request_seconds: float = REQUEST_SECONDS) -> None:
        self.tokens, self.request_seconds = tokens, request_seconds
        self.watches: set[_CallScope] = set()
        self.calls = _Room(calls, "this replica of the service has as many calls as it takes")
        self.open_streams = _Room(OPEN_STREAMS, "this server has as many watches of its health as it takes")

    def end_watches(self) -> None:
        """End every endless stream with Unavailable, so that a stopping server need not wait for them."""
        for watch in list(self.watches):
            watch.end()

    @override
    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        metadata = {
            name: value for name, value in handler_call_details.invocation_metadata or () if isinstance(value, str)
        }
        call = _Call(handler_call_details.method, handler, metadata, self)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(call.stream, response_serializer=handler.response_serializer)
        return grpc.stream_unary_rpc_method_handler(call.unary, response_serializer=handler.response_serializer)


class _Call:
    """One call of a method: `behaviour(request, context)` inside a _CallScope."""

    def __init__(self, path: str, handler: Any, metadata: dict[str, str], interceptor: ServerInterceptor) -> None:
        _, self.service, self.method = path.split("/")
        self.uploads, self.parse = handler.request_streaming, handler.request_deserializer
        self.behaviour = handler.unary_unary or handler.stream_unary or handler.unary_stream or handler.stream_stream
        self.metadata, self.tokens = metadata, interceptor.tokens
        self.watches = interceptor.watches if self.method.startswith(_ENDLESS) else None
        self.room: _Room | None = interceptor.calls
        if self.service in OPEN:
            self.room = interceptor.open_streams if handler.response_streaming else None
        self.request_seconds = interceptor.request_seconds
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        self.labels = (kind, self.service, self.method)

    async def unary(self, messages: AsyncIterator[bytes], context: Any) -> Any:
        async with _CallScope(self, context):
            response = self._fitting(await self.behaviour(await self._received(messages, context), context))
            RPC_SENT.labels(*self.labels).inc()
            return response

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        scope = _CallScope(self, context)
        async with scope:
            result = self.behaviour(await self._received(messages, context), context)
            if hasattr(result, "__aiter__"):
                async with aclosing(result):
                    async for response in result:
                        RPC_SENT.labels(*self.labels).inc()
                        scope.sending = True
                        yield response
                        scope.sending = False
                        if scope.ended:
                            raise Unavailable(STOPPING)
            else:
                # Health.Watch writes to the context by itself.
                await result

    async def _received(self, messages: AsyncIterator[bytes], context: Any) -> Any:
        """The request, or the stream of requests."""
        if self.uploads:
            return self._each(messages, context)
        try:
            async with asyncio.timeout(self.request_seconds):
                message = await context.read()
        except TimeoutError:
            raise DeadlineExceeded(f"no request arrived within {self.request_seconds:g} s: call again") from None
        if message is aio.EOF:
            raise InvalidArgument(f"{self.method} got no request: send one message")
        return self._parsed(message)

    def _fitting(self, response: Any) -> Any:
        """The response. Raises InvalidArgument for one that no client of ours could receive."""
        size = response.ByteSize() if isinstance(response, Message) else len(response)
        if size > MAX_MESSAGE_BYTES:
            raise InvalidArgument(
                f"the answer has {size:,} bytes, larger than max: {MAX_MESSAGE_BYTES:,}; ask for less at once, such as a "
                "smaller limit or fewer rows"
            )
        return response

    def _parsed(self, message: bytes) -> Any:
        """The request in a message, counted in the metrics. Raises InvalidArgument."""
        if len(message) > (most := request_bytes(self.service)):
            raise InvalidArgument(
                f"the request has {len(message):,} bytes, larger than max: {self.method} takes at most {most:,}; send less"
            )
        try:
            request = self.parse(message)
        except DecodeError:
            text = f"the request is no message that {self.method} takes: make it by the protos of this version"
            raise InvalidArgument(text) from None
        if isinstance(request, Message):
            check_values(request)
        RPC_RECEIVED.labels(*self.labels).inc()
        return request

    async def _each(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
        async for message in messages:
            yield self._parsed(message)
        if self.labels[0] == "client_stream":
            # grpc shows an upload that was cut off as one that ended. Sending metadata succeeds only in a live call:
            # in a dead one it waits, or fails, until grpc has cancelled the task.
            try:
                await context.send_initial_metadata(())
            except Exception as error:
                raise asyncio.CancelledError from error


class _CallScope:
    """What surrounds a call. Before: trace, deadline, caller, metrics. After: the error as a status, metrics."""

    def __init__(self, call: _Call, context: Any) -> None:
        self.call, self.context = call, context
        self.task: asyncio.Task[Any] | None = None
        self.sending = False
        self.ended = False

    def end(self) -> None:
        """End the stream: at once, or once the response in progress is sent."""
        if self.task and not self.ended:
            self.ended = True
            if not self.sending:
                self.task.cancel()

    async def __aenter__(self) -> None:
        self.started = time.perf_counter()
        call = self.call
        RPC_STARTED.labels(*call.labels).inc()
        continue_trace(call.metadata.get("traceparent", ""))
        remaining = self.context.time_remaining()
        DEADLINE.set(time.monotonic() + remaining if remaining is not None else None)
        try:
            CALLER.set(call.tokens.caller(call.service, call.method, call.metadata.get("authorization", "")))
            if call.room:
                call.room.enter()
        except MillstreamError as error:
            await self._fail(error)
        if call.watches is not None:
            self.task = asyncio.current_task()
            call.watches.add(self)

    async def __aexit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self.call.watches is not None:
            self.call.watches.discard(self)
        if self.call.room:
            self.call.room.leave()
        if error is None:
            self._count("OK")
        elif isinstance(error, asyncio.CancelledError) and self.ended and self.task:
            self.task.uncancel()
            await self._fail(Unavailable(STOPPING))
        elif isinstance(error, aio.AbortError):
            # Health.Check aborts for an unknown name by itself.
            _let_go_after_call(error)
            code = self.context.code()
            self._count(code.name if isinstance(code, grpc.StatusCode) else _CODE_NAMES[code])
        elif isinstance(error, MillstreamError):
            await self._fail(error)
        elif isinstance(error, Exception):
            log.exception("rpc failed", extra={"method": f"{self.call.service}/{self.call.method}"}, exc_info=error)
            await self._fail(Internal(f"{self.call.method} failed by a bug; the service's log has the details"))
        else:
            late = (left := self.context.time_remaining()) is not None and left <= 0
            self._count(DeadlineExceeded.code.name if late else "CANCELLED")

    async def _fail(self, error: MillstreamError) -> None:
        self._count(error.code.name)
        try:
            await self.context.abort_with_status(rpc_status.to_status(to_status(error)))
        except aio.AbortError as abort:
            _let_go_after_call(abort)
            raise

    def _count(self, code: str) -> None:
        RPC_HANDLED.labels(*self.call.labels, code).inc()
        RPC_SECONDS.labels(*self.call.labels).observe(time.perf_counter() - self.started)


def _let_go_after_call(abort: aio.AbortError) -> None:
    """Once the call has ended, drop what its abort leads to: the frames of the call and of its error, and so its request.

    grpc keeps an abort in the call's context, which is in these frames. Such a cycle stays until the garbage collector
    finds it, and it counts objects, not bytes.
    """

    def let_go(_: object) -> None:
        abort.__traceback__ = abort.__context__ = None

    if task := asyncio.current_task():
        task.add_done_callback(let_go)
