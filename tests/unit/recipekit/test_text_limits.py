"""Any text is brought into one form in time in proportion to its length, and a text that is too long is named."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.text_limits import MOST_MARKS, TextTooLong, check_lengths, compose

MARKS = "\u0301\u0316\u0f73\u0344\u0c4d\u1e94a"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0f73", "\u0f71\u0f72", "\u0c4d\u0316"])
def test_a_run_of_marks_is_cut_before_it_is_sorted(marks: str) -> None:
    long = compose("a" + marks * 400_000 + "b")
    assert long[0] in "aá" and long[-1] == "b" and MOST_MARKS <= len(long) <= MOST_MARKS + 2
    assert unicodedata.is_normalized("NFC", long)


def test_every_mark_of_unicode_is_known() -> None:
    """What all its decomposition can be moved by canonical order; U+0F73 is one although it has no class itself."""
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if 0xD800 <= code < 0xE000 or not all(map(unicodedata.combining, unicodedata.normalize("NFD", character))):
            continue
        assert len(compose("x" + character * 99)) <= MOST_MARKS + 1, f"U+{code:04X}"


@given(st.text())
def test_text_as_people_write_it_is_only_composed(text: str) -> None:
    assert compose(text) == unicodedata.normalize("NFC", text)


@given(st.text(alphabet=MARKS + "ae\u09c7\u09be", max_size=200))
def test_composing_twice_is_composing_once(text: str) -> None:
    once = compose(text)
    assert compose(once) == once and unicodedata.is_normalized("NFC", once)


def test_a_text_that_is_too_long_is_named_by_its_column() -> None:
    check_lengths({"a": "12345", "b": ["12345", {"c": "12345"}], "n": 123456, "none": None}, 5)
    for row in ({"a": "1", "b": "123456"}, {"a": "1", "b": ["1", {"c": ["123456"]}]}):
        with pytest.raises(TextTooLong, match="more than 5 characters") as refused:
            check_lengths(row, 5)
        assert refused.value.column == "b"


def test_values_may_be_nested_without_end() -> None:
    deep: object = "123456"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TextTooLong):
        check_lengths({"a": deep}, 5)
    while isinstance(deep, list):  # one by one: freed at once, the lists would recurse
        deep = deep.pop()
