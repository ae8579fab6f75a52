"""Calls millrace: `from millrace import Client` (or AsyncClient). Errors are in millrace.errors."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millrace.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]


def __getattr__(name: str) -> Any:
    """Import the client when it is asked for: services import millrace too, and must start fast."""
    if name in __all__:
        import millrace.client

        return getattr(millrace.client, name)
    raise AttributeError(f"module 'millrace' has no attribute {name!r}")
