"""tests/conftest.py keeps tests on this machine."""

import asyncio
import socket

import pytest

ELSEWHERE = "192.0.2.1"  # set aside for documentation: nobody answers there


@pytest.mark.parametrize("name", ["connect", "connect_ex"])
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, ELSEWHERE), (socket.AF_INET6, "2001:db8::1")])
def test_another_machine_is_refused(family: socket.AddressFamily, host: str, name: str) -> None:
    with socket.socket(family) as sock, pytest.raises(RuntimeError, match=f"not to {host}:80"):
        getattr(sock, name)((host, 80))


async def test_asyncio_is_refused_too() -> None:
    with pytest.raises(RuntimeError, match="connect to this machine only"):
        await asyncio.open_connection(ELSEWHERE, 80)


def test_this_machine_is_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
