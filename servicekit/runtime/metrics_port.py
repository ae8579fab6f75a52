"""The HTTP port of /metrics: few connections at once, and each for a few seconds."""

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app
from typing_extensions import override

log = logging.getLogger(__name__)
CONNECTIONS = 8
"""Most connections at once; more are closed at once."""
SECONDS = 10.0
"""After which a connection is closed, whatever it has sent or read."""


class _Handler(WSGIRequestHandler):
    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a scrape is no news."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Answers each connection in a thread of its own, within the bounds above."""

    daemon_threads = True

    def __init__(self, host: str, port: int, seconds: float = SECONDS) -> None:
        """Listen. Raises OSError."""
        self.seconds = seconds
        self._open: dict[socket.socket, float] = {}
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        super().__init__((str(address[0]), port), _Handler)
        self.set_app(make_wsgi_app())

    @override
    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._open) >= CONNECTIONS:
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        super().process_request(request, client_address)

    @override
    def shutdown_request(self, request: Any) -> None:
        self._open.pop(request, None)
        super().shutdown_request(request)

    @override
    def service_actions(self) -> None:
        """Called between connections, and at least twice a second."""
        for request, since in list(self._open.items()):
            if time.monotonic() - since > self.seconds:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    @override
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a client that went away is no news
            log.exception("metrics not served")


def serve_metrics(listen: str) -> MetricsServer | None:
    """Serve /metrics at host:port from a thread; nothing for an empty address. Ends the process when it cannot."""
    if not listen:
        return None
    host, _, port = listen.rpartition(":")
    try:
        server = MetricsServer(host.strip("[]"), int(port))
    except (OSError, OverflowError, ValueError) as error:
        text = f"cannot serve metrics at {listen}: {error}. Set MILLSTREAM_METRICS_LISTEN to a free host:port."
        raise SystemExit(text) from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
