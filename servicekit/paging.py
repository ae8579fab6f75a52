"""Pages of a listing (AIP-158)."""

import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

from millstream.errors import InvalidArgument

T = TypeVar("T")
DEFAULT_SIZE = 100
LARGEST_SIZE = 1000


def page_size(requested: int) -> int:
    """The number of items on a page: 0 asks for the default. Raises InvalidArgument for a negative number."""
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}: use 0 for the default or up to {LARGEST_SIZE}", field="page_size"
        )
    return min(requested, LARGEST_SIZE) or DEFAULT_SIZE


def page(items: Sequence[T], size: int, token: str, name: Callable[[T], str]) -> tuple[Sequence[T], str]:
    """One page of items and the token of the next ("" after the last).

    A token names the last item of its page, so items that come or go at the front between pages do no harm. Raises
    InvalidArgument for a negative size or a token that names no item of this listing.
    """
    size = page_size(size)
    start = 0
    if token:
        try:
            last = base64.urlsafe_b64decode(token).decode()
        except ValueError:
            last = ""
        start = next((i for i, item in enumerate(items, 1) if name(item) == last), 0)
        if not start:
            raise InvalidArgument("page_token is not from this listing: begin again without one", field="page_token")
    found = items[start : start + size]
    more = start + len(found) < len(items)
    return found, base64.urlsafe_b64encode(name(found[-1]).encode()).decode() if more else ""
