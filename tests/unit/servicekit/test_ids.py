"""Names: ids, hashes, what a name may hold."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millstream.dataset.v1.events_pb2 import SnapshotCreated
from millstream.errors import InvalidArgument
from servicekit import ids


def test_new_ids_are_uuids_of_version_7_and_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for millisecond in range(1, 200):
        monkeypatch.setattr("time.time_ns", lambda now=millisecond: 1_700_000_000_000_000_000 + now * 1_000_000)
        made.append(ids.new_id())
    assert made == sorted(made)
    for each in map(uuid.UUID, made):
        assert (each.version, each.variant) == (7, uuid.RFC_4122)
    assert len({ids.new_id() for _ in range(1000)}) == 1000


@given(st.lists(st.text()), st.lists(st.text()))
def test_a_hash_names_its_parts_unambiguously(a: list[str], b: list[str]) -> None:
    assert re.fullmatch("[0-9a-f]{32}", ids.hash_of(*a))
    assert (ids.hash_of(*a) == ids.hash_of(*b)) == (a == b)


def test_a_hash_takes_messages_numbers_and_bytes() -> None:
    message = SnapshotCreated(dataset="words", number=1)
    assert ids.hash_of(message) == ids.hash_of(message.SerializeToString(deterministic=True))
    assert ids.hash_of(1) == ids.hash_of("1") == ids.hash_of(b"1") != ids.hash_of(1, "")


@pytest.mark.parametrize("name", ["a", "words-2", "a" * 63, "0"])
def test_a_good_name(name: str) -> None:
    assert ids.check_name(name, "model") == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a" * 64, "a\n", "ä"])
def test_a_bad_name_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        ids.check_name(name, "spec.model")
    assert refused.value.field == "spec.model"


def test_request_ids() -> None:
    assert ids.check_request_id("a.B_1=~-") == "a.B_1=~-"
    assert uuid.UUID(ids.check_request_id("")).version == 7
    for bad in ("a/b", ".a", "a" * 101, "a\n"):
        with pytest.raises(InvalidArgument):
            ids.check_request_id(bad)
