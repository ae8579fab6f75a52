"""The proxy that other tests cut, slow and reset does so."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.suites.proxy import Proxy
from tests.worlds.waiting import HANG


@pytest.fixture
def echo() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a server that answers each piece with itself, and what it has received."""
    received: list[bytes] = []
    server = socket.create_server(("127.0.0.1", 0))

    def answer(connection: socket.socket) -> None:
        with connection:
            try:
                while piece := connection.recv(1 << 16):
                    received.append(piece)
                    connection.sendall(piece)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield f"127.0.0.1:{server.getsockname()[1]}", received
    server.shutdown(socket.SHUT_RDWR)
    server.close()


def call(proxy: Proxy) -> socket.socket:
    host, _, port = proxy.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=HANG)


def test_it_passes_everything_both_ways(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        sent = bytes(range(256)) * 4000
        threading.Thread(target=caller.sendall, args=(sent,), daemon=True).start()
        back = b""
        while len(back) < len(sent):
            back += caller.recv(1 << 16)
        assert back == sent
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b"", "an end passes too"


def test_cut_it_is_silent_and_healed_it_passes_what_was_held_back(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        caller.sendall(b"one")
        assert caller.recv(9) == b"one"
        proxy.cut()
        caller.sendall(b"two")
        with call(proxy) as other:
            other.sendall(b"three")
            for silent in (caller, other):
                silent.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    silent.recv(9)
            assert echo[1] == [b"one"]
            proxy.heal()
            for silent, word in ((caller, b"two"), (other, b"three")):
                silent.settimeout(HANG)
                assert silent.recv(9) == word


def test_reset_connections_end_and_new_ones_work(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        caller.sendall(b"one")
        assert caller.recv(9) == b"one"
        proxy.break_connections()
        with pytest.raises(ConnectionResetError):
            caller.recv(9)
        with call(proxy) as other:
            other.sendall(b"two")
            assert other.recv(9) == b"two"


def test_a_request_arrives_although_its_reply_is_lost(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        proxy.lose_replies()
        caller.sendall(b"one")
        with pytest.raises(ConnectionResetError):
            caller.recv(9)
        assert echo[1] == [b"one"]


def test_it_cuts_after_so_many_pieces_of_answers(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        proxy.cut_after(2)
        for text in (b"one", b"two"):
            assert not proxy.is_cut
            caller.sendall(text)
            assert caller.recv(9) == text
        caller.sendall(b"three")
        assert proxy.is_cut
        proxy.heal()
        assert caller.recv(9) == b"three"


def test_slowed_it_delays_each_way(echo: tuple[str, list[bytes]]) -> None:
    with Proxy(echo[0]) as proxy, call(proxy) as caller:
        proxy.slow(0.15)
        began = time.monotonic()
        caller.sendall(b"one")
        assert caller.recv(9) == b"one"
        assert time.monotonic() - began >= 0.3, "once each way"


def test_without_a_target_a_connection_is_reset() -> None:
    with socket.socket() as nobody:  # bound, so that no other process listens there; it does not listen itself
        nobody.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{nobody.getsockname()[1]}"
        with Proxy(target) as proxy, pytest.raises(ConnectionResetError), call(proxy) as caller:
            caller.recv(1)
