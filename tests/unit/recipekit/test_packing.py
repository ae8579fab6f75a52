"""Every row is in one batch, a batch stays within its budget, and outputs are in the order of the inputs."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.packing import FREE_PADDING, pack, run_packed

COSTS = st.lists(st.integers(1, 3000), max_size=60)


def padded(costs: Sequence[int], batch: Sequence[int]) -> int:
    return len(batch) * max(costs[i] for i in batch)


@given(COSTS, st.integers(1, 4000), st.none() | st.integers(1, 40), st.none() | st.integers(0, FREE_PADDING))
def test_each_row_is_in_one_batch_within_the_budget(
    costs: list[int], tokens: int, rows: int | None, free_padding: int | None
) -> None:
    batches = pack(costs, tokens, rows, free_padding)
    assert sorted(i for batch in batches for i in batch) == list(range(len(costs)))
    for batch in batches:
        assert rows is None or len(batch) <= rows
        assert padded(costs, batch) <= tokens or len(batch) == 1
        if free_padding is not None:
            real = sum(costs[i] for i in batch)
            assert padded(costs, batch) - real <= max(free_padding, real)


@given(COSTS, st.integers(1, 4000))
def test_batches_are_sorted_by_cost_and_as_large_as_the_budget_allows(costs: list[int], tokens: int) -> None:
    batches = pack(costs, tokens, free_padding=None)
    order = [i for batch in batches for i in batch]
    assert order == sorted(order, key=lambda i: (costs[i], i)), "rows of the same cost left their order"
    for batch, following in pairwise(batches):
        assert padded(costs, [*batch, following[0]]) > tokens, "a row of the next batch had room in this one"


def test_a_few_long_rows_do_not_pad_many_short_ones() -> None:
    costs = [10] * 100 + [250]
    assert [len(batch) for batch in pack(costs, 100_000)] == [100, 1]
    assert [len(batch) for batch in pack(costs, 100_000, free_padding=None)] == [101]


@given(COSTS, st.integers(1, 4000))
def test_outputs_are_in_the_order_of_the_inputs(costs: list[int], tokens: int) -> None:
    inputs = [f"{i}: {cost}" for i, cost in enumerate(costs)]
    assert run_packed(lambda batch: [text.upper() for text in batch], inputs, costs, tokens) == [
        text.upper() for text in inputs
    ]


def test_a_forward_that_loses_a_row_is_an_error() -> None:
    with pytest.raises(ValueError):
        run_packed(lambda batch: batch[1:], ["a", "b"], [1, 1])
