"""The client of millstream: `from millstream import Client` (or AsyncClient), and Credentials. Errors: millstream.errors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.channel import Credentials
    from millstream.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Credentials"]


def __getattr__(name: str) -> Any:
    """Import the client lazily: services import millstream too, and must start fast."""
    if name in __all__:
        from millstream import channel, client

        return getattr(channel if name == "Credentials" else client, name)
    raise AttributeError(f"module 'millstream' has no attribute {name!r}")
