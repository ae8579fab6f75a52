"""Batches cover every row once, stay within the budget and are the same for the same (seed, epoch)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.training.batching import TokenBatches

COSTS = st.lists(st.integers(min_value=1, max_value=300), min_size=1, max_size=200)


@given(costs=COSTS, budget=st.integers(1, 2000), max_rows=st.integers(1, 64), epoch=st.integers(0, 5))
def test_each_row_is_in_exactly_one_batch_and_no_batch_is_over_budget(
    costs: list[int], budget: int, max_rows: int, epoch: int
) -> None:
    batches = TokenBatches(costs, budget, seed=3, max_rows=max_rows).epoch(epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(costs)))
    for batch in batches:
        padded = max(costs[i] for i in batch) * len(batch)
        assert len(batch) <= max_rows
        assert padded <= budget or len(batch) == 1, f"{padded} padded tokens in {len(batch)} rows, budget {budget}"


@given(costs=COSTS, budget=st.integers(1, 2000))
def test_every_epoch_has_the_same_number_of_batches(costs: list[int], budget: int) -> None:
    batches = TokenBatches(costs, budget, seed=3)
    assert {len(batches.epoch(epoch)) for epoch in range(4)} == {len(batches)}


def test_an_epoch_depends_on_seed_and_number_alone() -> None:
    costs = [1 + i % 37 for i in range(500)]
    first = TokenBatches(costs, 256, seed=1)
    assert first.epoch(2) == TokenBatches(costs, 256, seed=1).epoch(2)
    assert first.epoch(2) != first.epoch(3)
    assert first.epoch(2) != TokenBatches(costs, 256, seed=2).epoch(2)


def test_padding_is_a_small_share_of_long_data() -> None:
    costs = [3 + (i * 7919) % 200 for i in range(5000)]
    batches = TokenBatches(costs, 4096, seed=0).epoch(0)
    padded = sum(max(costs[i] for i in batch) * len(batch) for batch in batches)
    assert sum(costs) / padded > 0.85, f"only {sum(costs) / padded:.2f} of the padded tokens are real"


def test_a_row_without_cost_is_refused() -> None:
    with pytest.raises(ValueError, match="row 1 costs 0"):
        TokenBatches([2, 0], 16, seed=0).epoch(0)
