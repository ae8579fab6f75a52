# Derived from aio/pages.py by `python tools/derive_client.py`: do not edit.
"""Pagination (AIP-158): all pages of a listing."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar


class _Request(Protocol):
    page_token: str


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


R = TypeVar("R", bound=_Request)
P = TypeVar("P", bound=_Page)


def pages(call: Callable[[R], P], request: R) -> Iterator[P]:
    """Each page of a listing, requested when the one before has been used. Raises what the call raises.

    It ends at a page without a next token, or whose next token is that of its own request: a server that repeats a token
    would otherwise be asked for ever.
    """
    while True:
        page = call(request)
        yield page
        if page.next_page_token in ("", request.page_token):
            return
        request.page_token = page.next_page_token
