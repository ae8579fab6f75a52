"""The edges of a text."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipekit.edges import EDGE, strip_edges, visible

SHAPED = ("a", "\u0c15", "\u0c4d", "\u200d", "\ufe0f", "\u2764", "\u4e00", "\U000e0100", "\U0001f3f4", "\U000e0067")
near_edges = st.text(alphabet=st.sampled_from([*EDGE, *SHAPED * 20]), max_size=12)


@given(near_edges | st.text())
def test_only_the_edges_change_and_once_is_enough(text: str) -> None:
    stripped = strip_edges(text)
    assert stripped in text and strip_edges(stripped) == stripped
    before, _, after = text.partition(stripped) if stripped else (text, "", "")
    assert set(before + after) <= set(EDGE)


def test_the_characters_are_all_white_space_and_all_that_shows_nothing() -> None:
    assert len(set(EDGE)) == len(EDGE)
    every = [chr(code) for code in range(0x110000)]
    white = {character for character in every if character.isspace()}
    controls = {character for character in every if unicodedata.category(character) == "Cc"}
    assert white | controls <= set(EDGE)
    # Format characters that are left out show something: Arabic and Kaithi signs.
    shown = {character for character in every if unicodedata.category(character) == "Cf" and character not in set(EDGE)}
    assert {unicodedata.name(character).split()[0] for character in shown} == {"ARABIC", "SYRIAC", "KAITHI"}
    others = {unicodedata.category(character) for character in set(EDGE) - white - controls}
    # Format characters, variation selectors (Mn), fillers (Lo), reserved for them (Cn), and the empty Braille cell (So).
    assert others == {"Cf", "Mn", "Lo", "Cn", "So"}


def test_a_joiner_stays_after_a_virama_alone() -> None:
    assert strip_edges("\u0d28\u0d4d\u200d\u200b") == "\u0d28\u0d4d\u200d"
    assert strip_edges("positive\u200d") == "positive" and strip_edges("\u200c\u200d") == ""


@pytest.mark.parametrize(
    "kept",
    [
        "good \u2764\ufe0f",  # a heart in emoji style
        "\u203c\ufe0f",
        "\u845b\U000e0100",  # a Han variant in a name
        "\u1820\u180b",  # a Mongolian letter's second form
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "1\ufe0f\u20e3",  # a keycap
    ],
)
def test_what_shapes_the_character_before_it_stays(kept: str) -> None:
    assert strip_edges(f"\ufe0f{kept}\u200b\ufe0f") == kept


@pytest.mark.parametrize(
    "hidden", ["\ufe0f", "\ufe0e", "\u180b", "\u17b4", "\u2065", "\ufff0", "\U000e0001", "\U000e0020"]
)
def test_what_shapes_nothing_is_taken_off_a_word(hidden: str) -> None:
    assert strip_edges(f"{hidden}positive{hidden}") == "positive"
    assert strip_edges(f"positive\x00{hidden}\x07") == "positive"


def test_a_reader_sees_what_shows_nothing() -> None:
    assert visible("a b\ufe0f\u200b\x00'\U000e0100\u17b4") == '"a b\\ufe0f\\u200b\\x00\'\\U000e0100\\u17b4"'
