"""Calls the platform: `Client` for threads, `AsyncClient` for asyncio, with the same methods.

asynchronous.py is written by hand; blocking.py is derived from it (`python millstream/client/derive.py`).
"""

from millstream.client.asynchronous import AsyncClient
from millstream.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
