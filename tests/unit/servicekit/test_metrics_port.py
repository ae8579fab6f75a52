"""The port of /metrics: it answers scrapes, however many connections say nothing."""

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import pytest

from servicekit.runtime.metrics_port import CONNECTIONS, MetricsServer, serve_metrics
from tests.worlds.waiting import HANG


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[MetricsServer]:
    """Listening; its parameter is the seconds that a connection may last."""
    with MetricsServer("127.0.0.1", 0, request.param) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def scrape(server: MetricsServer) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=HANG) as page:
        return str(page.read().decode())


def silent(server: MetricsServer) -> socket.socket:
    """A connection that has sent half a request."""
    opened = socket.create_connection(("127.0.0.1", server.server_port), timeout=HANG)
    opened.sendall(b"GET /metrics HTTP/1.1\r\nHost: x")
    return opened


@pytest.mark.parametrize("server", [600.0], indirect=True)
def test_more_connections_than_it_takes_are_closed_at_once(server: MetricsServer) -> None:
    held = [silent(server) for _ in range(CONNECTIONS)]
    more = [silent(server) for _ in range(20)]
    for one in more:
        with one, suppress(ConnectionResetError):  # it was closed before what was sent had been read
            assert one.recv(1) == b""
    for one in held:
        one.setblocking(False)
        with one, pytest.raises(BlockingIOError):
            one.recv(1)
    scraped = ""
    while not scraped:  # until the threads of the closed connections have ended
        try:
            scraped = scrape(server)
        except OSError:
            continue
    assert "# TYPE" in scraped


@pytest.mark.parametrize("server", [0.05], indirect=True)
def test_a_slow_client_is_cut_off_and_others_are_answered(server: MetricsServer) -> None:
    with silent(server) as slow:
        assert slow.recv(1) == b"", "it waits for the request without an end"
    server.seconds = 600.0  # or a loaded machine takes the scrape for slow too
    assert "# TYPE" in scrape(server)


def test_it_is_served_at_an_ipv6_address_as_it_is_written_elsewhere() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    server = serve_metrics("[::1]:0")
    assert server is not None
    with urllib.request.urlopen(f"http://[::1]:{server.server_port}/metrics", timeout=HANG) as page:
        assert "# TYPE" in page.read().decode()
    server.shutdown()
    server.server_close()


def test_an_address_that_cannot_be_used_ends_the_process() -> None:
    assert serve_metrics("") is None
    for address in ("127.0.0.1:99999", "127.0.0.1:x", "[::2]:0"):
        with pytest.raises(SystemExit, match=r"cannot serve metrics at .*MILLSTREAM_METRICS_LISTEN"):
            serve_metrics(address)
