"""Pages of a listing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.errors import InvalidArgument
from servicekit.paging import DEFAULT_SIZE, LARGEST_SIZE, page


@given(st.integers(0, 30), st.integers(0, 12))
def test_pages_give_every_item_once_in_order(count: int, size: int) -> None:
    items, token, pages = list(range(count)), "", 0
    found: list[int] = []
    while True:
        shown, token = page(items, size, token, str)
        found += shown
        pages += 1
        if not token:
            break
        assert len(shown) == size
    assert found == items
    assert pages == (max(1, -(-count // size)) if size else 1)


def test_pages_have_sizes_and_tokens_that_are_checked() -> None:
    items = list(range(3000))
    assert len(page(items, 0, "", str)[0]) == DEFAULT_SIZE
    assert len(page(items, 10**6, "", str)[0]) == LARGEST_SIZE
    for size, token, field in (
        (-1, "", "page_size"),
        (1, "!!", "page_token"),
        (1, "bm9uZQ==", "page_token"),
        (1, "ä", "page_token"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            page(items, size, token, str)
        assert refused.value.field == field
    _, token = page(items, 10, "", str)
    assert page([-1, *items], 10, token, str)[0][0] == 10, "what came at the front meanwhile moves nothing"
