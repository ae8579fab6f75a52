"""Calls millrace: `from millrace import Client` (or AsyncClient), and Credentials. Errors are in millrace.errors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace.channel import Credentials
    from millrace.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "Credentials"]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: services import millrace too, and must start fast."""
    if name in __all__:
        from millrace import channel, client

        return getattr(channel if name == "Credentials" else client, name)
    raise AttributeError(f"module 'millrace' has no attribute {name!r}")
