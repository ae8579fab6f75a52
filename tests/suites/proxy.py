"""A TCP proxy on the loopback address, which a test can cut, slow down, reset, or let lose replies."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
PIECE = 1 << 16


class Proxy:
    """Passes bytes between its `address` and the target, in a thread of its own, until a method changes that.

    All methods may be called from any thread, and have taken effect when they return.
    """

    def __init__(self, target: str, port: int = 0) -> None:
        host, _, number = target.rpartition(":")
        self._target, self._port = (host, int(number)), port
        self._seconds, self._losing, self._pieces = 0.0, False, 0
        self._loop = asyncio.new_event_loop()
        self._open = asyncio.Event()
        self._open.set()
        self._wires: set[asyncio.StreamWriter] = set()
        self._passing: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        self.address = f"{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """A network partition: connections stay open, new ones are accepted, and no byte passes."""
        self._do(self._open.clear)

    def cut_after(self, pieces: int) -> None:
        """Pass so many more pieces of answers, then cut()."""
        self._do(lambda: setattr(self, "_pieces", pieces))

    @property
    def is_cut(self) -> bool:
        """Whether no byte passes."""
        return not self._open.is_set()

    def slow(self, seconds: float) -> None:
        """Delay each piece of data by so many seconds, in both directions."""
        self._do(lambda: setattr(self, "_seconds", seconds))

    def lose_replies(self) -> None:
        """Requests arrive; instead of the answer the connection is reset."""
        self._do(lambda: setattr(self, "_losing", True))

    def break_connections(self) -> None:
        """Reset all open connections."""
        self._do(self._break)

    def heal(self) -> None:
        """Pass everything again, with what was held back."""

        def heal() -> None:
            self._seconds, self._losing, self._pieces = 0.0, False, 0
            self._open.set()

        self._do(heal)

    def _do(self, change: Callable[[], None]) -> None:
        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _break(self) -> None:
        for wire in self._wires:
            _reset(wire)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, HOST, self._port)

    async def _close(self) -> None:
        self._server.close()
        self._break()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._passing.add(task)
        self._wires.add(writer)
        try:
            await self._open.wait()
            far_reader, far_writer = await asyncio.open_connection(*self._target)
            self._wires.add(far_writer)
            try:
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._pass_on(reader, far_writer, answers=False))
                    both.create_task(self._pass_on(far_reader, writer, answers=True))
            finally:
                self._wires.discard(far_writer)
                far_writer.close()
            writer.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            _reset(writer)
        finally:
            self._wires.discard(writer)
            self._passing.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while piece := await reader.read(PIECE):
            if self._seconds:
                await asyncio.sleep(self._seconds)
            await self._open.wait()
            if answers and self._losing:
                raise ConnectionResetError
            if answers and self._pieces:
                self._pieces -= 1
                if not self._pieces:
                    self._open.clear()
            writer.write(piece)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def _reset(wire: asyncio.StreamWriter) -> None:
    """End it so that the other end cannot take it for a proper end."""
    with suppress(OSError):
        wire.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wire.transport.abort()
