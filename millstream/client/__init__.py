"""`Client` for threads and `AsyncClient` for asyncio, with the same methods.

aio/ is written by hand; sync/ is derived from it (`python tools/derive_client.py`).
"""

from millstream.client.aio import AsyncClient
from millstream.client.sync import Client

__all__ = ["AsyncClient", "Client"]
