"""Pages of a listing."""

from itertools import chain, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millstream.dataset.v1.dataset_pb2 import Dataset, DatasetSpec
from millstream.dataset.v1.dataset_service_pb2 import ListDatasetsRequest
from millstream.errors import InvalidArgument, NotFound
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec
from servicekit.limits import PAGE_BYTES
from servicekit.paging import DEFAULT_SIZE, LARGEST_SIZE, itself, message_page, page, trimmed


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


async def all_pages(items: list[Dataset], size: int) -> list[list[Dataset]]:
    found: list[list[Dataset]] = []
    request = ListDatasetsRequest(page_size=size)
    while True:
        shown, request.page_token = await message_page(items, request, lambda item: item.name, itself)
        found.append(shown)
        if not request.page_token:
            return found


@given(st.lists(st.integers(1, 3 * PAGE_BYTES // 2), max_size=12), st.integers(0, 5))
@settings(deadline=None, max_examples=30)
async def test_pages_are_cut_by_bytes_and_give_every_item_once_in_order(lengths: list[int], size: int) -> None:
    items = [Dataset(name=str(n), spec=DatasetSpec(recipe="x" * length)) for n, length in enumerate(lengths)]
    found = await all_pages(items, size)
    assert [item.name for shown in found for item in shown] == [item.name for item in items]
    for shown, after in pairwise(found):
        assert 0 < len(shown) <= (size or DEFAULT_SIZE)
        full = sum(item.ByteSize() for item in shown)
        assert full <= PAGE_BYTES
        assert len(shown) == size or full + after[0].ByteSize() > PAGE_BYTES, "no page ends before it must"
    for item, one in zip(items, chain.from_iterable(found), strict=True):
        assert one == item or item.ByteSize() > PAGE_BYTES


async def test_what_was_listed_but_never_stored_is_left_out_and_ends_nothing() -> None:
    async def message(name: str) -> Dataset:
        if name != "there":
            raise NotFound(name)
        return Dataset(name=name)

    request = ListDatasetsRequest(page_size=2)
    shown, request.page_token = await message_page(["a", "b", "there"], request, str, message)
    assert shown == [] and request.page_token
    shown, token = await message_page(["a", "b", "there"], request, str, message)
    assert [one.name for one in shown] == ["there"] and not token


def test_a_message_loses_its_largest_fields_only_and_only_as_many_as_it_must() -> None:
    run = TrainingRun(run_id="run-1", state=TrainingRun.STATE_FAILED, reason="r" * 600, metrics={"accuracy": 0.5})
    run.spec.model, run.spec.dataset, run.spec.dataset_number = "toy", "words", 3
    run.spec.config.update({"text": "x" * 2000})
    assert trimmed(run, run.ByteSize()) is run
    one = trimmed(run, 1000)
    assert (one.spec, one.reason) == (TrainingRunSpec(model="toy", dataset="words", dataset_number=3), run.reason)
    two = trimmed(run, 200)
    assert (two.run_id, two.state, two.metrics) == ("run-1", TrainingRun.STATE_FAILED, run.metrics)
    assert two.reason == "(left out: 600 characters)"
    least = trimmed(run, 1)
    assert least.run_id == "run-1" and not least.metrics
    assert len(run.reason) == 600, "the message itself stays as it is"
