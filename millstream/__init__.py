"""The client of millstream: `from millstream import Client` (or AsyncClient), Credentials and
`call_timeout`. Errors: millstream.errors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millstream.channel import call_timeout
    from millstream.client import AsyncClient, Client
    from millstream.credentials import Credentials

__all__ = ["AsyncClient", "Client", "Credentials", "call_timeout"]


def __getattr__(name: str) -> Any:
    """Import the client lazily: services import millstream too, and must start fast."""
    if name in __all__:
        from millstream import channel, client

        return getattr(channel if name in ("Credentials", "call_timeout") else client, name)
    raise AttributeError(f"module 'millstream' has no attribute {name!r}")
