"""Channels over TLS that are opened again when their certificates change, so that a rotation needs no restart."""

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar

import grpc
from grpc import aio
from typing_extensions import override

from millstream.credentials import Credentials

C = TypeVar("C")
GRACE_SECONDS = 3600.0
"""How long calls in progress may go on over a channel of earlier certificates."""


class _Current(Generic[C]):
    """The channel by the certificates of now, and those before it, whose calls are still in progress."""

    def __init__(
        self,
        credentials: Credentials,
        trusted: grpc.ChannelCredentials,
        opening: Callable[[grpc.ChannelCredentials], C],
    ) -> None:
        self._credentials, self._trusted, self._opening = credentials, trusted, opening
        self._channel = opening(trusted)
        self._earlier: list[tuple[float, C]] = []
        self._closed = False
        self._lock = threading.Lock()

    @property
    def channel(self) -> C:
        """For a call that begins now. gRPC closes the channels that are too old: nothing holds them any more."""
        with self._lock:
            trusted = self._credentials.ssl()
            if trusted is not None and trusted is not self._trusted and not self._closed:
                now = time.monotonic()
                self._earlier = [(since, old) for since, old in self._earlier if now - since < GRACE_SECONDS]
                self._earlier.append((now, self._channel))
                self._trusted, self._channel = trusted, self._opening(trusted)
            return self._channel

    def end(self) -> list[C]:
        """All channels, to be closed: from now on none is opened."""
        with self._lock:
            self._closed = True
            return [self._channel, *(old for _, old in self._earlier)]


class _Method:
    """What a stub calls: a method of the channel of now."""

    def __init__(self, current: _Current[Any], kind: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._current, self._kind, self._arguments, self._named = current, kind, arguments, named
        self._made: tuple[Any, Any] = (None, None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        channel = self._current.channel
        known, method = self._made
        if channel is not known:
            method = getattr(channel, self._kind)(*self._arguments, **self._named)
            # Both in one step: another thread may have the channel before.
            self._made = (channel, method)
        return method(*arguments, **named)


class _Methods:
    """The part of a channel that stubs use, the same for asyncio and for threads."""

    def __init__(self, current: _Current[Any]) -> None:
        self._current = current

    def unary_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self._current, "unary_unary", arguments, named)

    def unary_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self._current, "unary_stream", arguments, named)

    def stream_unary(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self._current, "stream_unary", arguments, named)

    def stream_stream(self, *arguments: Any, **named: Any) -> Any:
        return _Method(self._current, "stream_stream", arguments, named)


class ReopenedAioChannel(_Methods, aio.Channel):
    """A channel for asyncio."""

    def __init__(
        self,
        credentials: Credentials,
        trusted: grpc.ChannelCredentials,
        opening: Callable[[grpc.ChannelCredentials], aio.Channel],
    ) -> None:
        self._current = _Current(credentials, trusted, opening)

    @override
    async def close(self, grace: float | None = None) -> None:
        for channel in self._current.end():
            await channel.close(grace)

    @override
    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        state: grpc.ChannelConnectivity = self._current.channel.get_state(try_to_connect)
        return state

    @override
    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._current.channel.wait_for_state_change(last_observed_state)

    @override
    async def channel_ready(self) -> None:
        await self._current.channel.channel_ready()

    @override
    async def __aenter__(self) -> Self:
        return self

    @override
    async def __aexit__(self, *_: object) -> None:
        await self.close()


class ReopenedChannel(_Methods, grpc.Channel):
    """A channel for threads."""

    def __init__(
        self,
        credentials: Credentials,
        trusted: grpc.ChannelCredentials,
        opening: Callable[[grpc.ChannelCredentials], grpc.Channel],
    ) -> None:
        self._current = _Current(credentials, trusted, opening)

    @override
    def close(self) -> None:
        for channel in self._current.end():
            channel.close()

    @override
    def subscribe(
        self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool | None = False
    ) -> None:
        self._current.channel.subscribe(callback, try_to_connect)

    @override
    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._current.channel.unsubscribe(callback)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(self, *_: object) -> None:
        self.close()
