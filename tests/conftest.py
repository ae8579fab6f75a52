"""For every test: no connection leaves this machine; the fixtures of real servers."""

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.worlds.servers import kafka, minio, own_kafka, own_minio, pytest_terminal_summary

__all__ = ["kafka", "minio", "own_kafka", "own_minio", "pytest_terminal_summary"]

# Threads of OpenMP that spin for one another stop each other for seconds where others want the cores too. Read when torch
# is imported; platforms and workers that tests start inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

INTERNET = {socket.AF_INET, socket.AF_INET6}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


class NetworkRefused(RuntimeError):
    """A test tried to reach another machine."""


def _check(sock: socket.socket, address: Any) -> None:
    if sock.family in INTERNET and not _is_loopback(str(address[0])):
        raise NetworkRefused(f"tests may connect to this machine only, not to {address[0]}:{address[1]}")


@pytest.fixture(scope="session", autouse=True)
def only_this_machine() -> Iterator[None]:
    """Refuse connections of Python's sockets to other machines (gRPC's core does not use them)."""
    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(sock: socket.socket, address: Any, original: Any = original) -> Any:
            _check(sock, address)
            return original(sock, address)

        patch.setattr(socket.socket, name, guarded)
    yield
    patch.undo()
