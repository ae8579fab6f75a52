"""Calls the platform: `Client` for threads, `AsyncClient` for asyncio, with the same methods.

asynchronous.py is written by hand; blocking.py is derived from it (`python millrace/client/derive.py`).
"""

from millrace.client.asynchronous import AsyncClient
from millrace.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
