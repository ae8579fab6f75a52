"""Pages of a listing (AIP-158), cut by count and by bytes, and objects that are too large to be sent.

A page is never larger than a message may be, whatever was stored: the limits of today (servicekit/limits.py) do not hold
for objects that older versions accepted.
"""

import base64
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeVar

from google.protobuf.message import Message

from millstream.errors import InvalidArgument, NotFound
from servicekit.concurrency import in_order
from servicekit.limits import PAGE_BYTES, SENT_BYTES

T = TypeVar("T")
M = TypeVar("M", bound=Message)
DEFAULT_SIZE = 100
LARGEST_SIZE = 1000
LONGEST_NAME = 255
"""Characters of a text that stays in a field of which the rest is left out."""


class ListRequest(Protocol):
    """What every request for a page has."""

    @property
    def page_size(self) -> int:
        """Most items; 0: the default."""
        ...

    @property
    def page_token(self) -> str:
        """The page; "": the first."""
        ...


def page_size(requested: int) -> int:
    """The number of items on a page: 0 asks for the default. Raises InvalidArgument for a negative number."""
    if requested < 0:
        raise InvalidArgument(
            f"page_size is {requested}: use 0 for the default or up to {LARGEST_SIZE}", field="page_size"
        )
    return min(requested, LARGEST_SIZE) or DEFAULT_SIZE


def wrong_token() -> InvalidArgument:
    """The error for a token that names no place of a listing."""
    return InvalidArgument("page_token is not from this listing: begin again without one", field="page_token")


def place_of(token: str) -> str:
    """The name of the last item of the page before; "" for the first page. Raises InvalidArgument."""
    try:
        return base64.urlsafe_b64decode(token).decode()
    except ValueError:
        raise wrong_token() from None


def page(items: Sequence[T], size: int, token: str, name: Callable[[T], str]) -> tuple[Sequence[T], str]:
    """One page of items and the token of the next ("" after the last).

    A token names the last item of its page, so items that come or go at the front between pages do no harm. Raises
    InvalidArgument for a negative size or a token that names no item of this listing.
    """
    size = page_size(size)
    start = 0
    if token:
        last = place_of(token)
        start = next((i for i, item in enumerate(items, 1) if name(item) == last), 0)
        if not start:
            raise wrong_token()
    found = items[start : start + size]
    more = start + len(found) < len(items)
    return found, _token(name(found[-1])) if more else ""


async def message_page(
    items: Sequence[T], request: ListRequest, name: Callable[[T], str], message: Callable[[T], Awaitable[M]]
) -> tuple[list[M], str]:
    """As page(), with the message of each item, and cut where the messages have PAGE_BYTES.

    A larger one is trimmed. An item whose message is NotFound is left out: it was listed, but never stored (see
    Blobs.list). Raises what page() and `message` raise.
    """
    found, token = page(items, request.page_size, request.page_token, name)
    messages, size, last = list[M](), 0, ""
    async for item, made in in_order(partial(_made, message), found):
        if made is None:
            continue
        size += made.ByteSize()
        if messages and size > PAGE_BYTES:
            return messages, _token(last)
        messages.append(made)
        last = name(item)
    return messages, token


async def _made(message: Callable[[T], Awaitable[M]], item: T) -> tuple[T, M | None]:
    try:
        return item, trimmed(await message(item), PAGE_BYTES)
    except NotFound:
        return item, None


async def itself(message: M) -> M:
    """The message of an item that is one."""
    return message


def trimmed(message: M, most: int = SENT_BYTES) -> M:
    """The message, or where it has more than so many bytes a copy without its largest fields.

    A long text gives way to a remark, a list to nothing, and of a message in it only numbers and short texts stay.
    """
    if message.ByteSize() <= most:
        return message
    small = type(message)()
    small.CopyFrom(message)
    sizes = {field.name: type(message)(**{field.name: value}).ByteSize() for field, value in message.ListFields()}
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        value = getattr(small, name)
        if isinstance(value, str):
            if len(value) > LONGEST_NAME:
                setattr(small, name, f"(left out: {len(value):,} characters)")
        elif isinstance(value, Message):
            value.CopyFrom(_names(value))
        else:
            small.ClearField(name)
        if small.ByteSize() <= most:
            break
    return small


def _names(message: M) -> M:
    """The numbers and short texts of a message."""
    return type(message)(
        **{
            field.name: value
            for field, value in message.ListFields()
            if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= LONGEST_NAME)
        }
    )


def _token(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()
