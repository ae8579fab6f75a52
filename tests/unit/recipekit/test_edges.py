"""The edges of a text."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from recipekit.edges import EDGE, strip_edges

near_edges = st.text(alphabet=st.sampled_from([*EDGE, "a", "\u0c15", "\u0c4d", "\u200d", "\U000e0067"]), max_size=12)


@given(near_edges | st.text())
def test_only_the_edges_change_and_once_is_enough(text: str) -> None:
    stripped = strip_edges(text)
    assert stripped in text and strip_edges(stripped) == stripped
    before, _, after = text.partition(stripped) if stripped else (text, "", "")
    assert set(before + after) <= set(EDGE)


def test_the_characters_are_all_white_space_and_show_nothing() -> None:
    assert len(set(EDGE)) == len(EDGE)
    white = {chr(code) for code in range(0x110000) if chr(code).isspace()}
    assert white <= set(EDGE)
    others = {unicodedata.category(character) for character in set(EDGE) - white}
    # Format characters, a joiner of graphemes (Mn), fillers (Lo), and the empty Braille cell (So).
    assert others == {"Cf", "Mn", "Lo", "So"}


def test_a_joiner_stays_after_a_virama_alone() -> None:
    assert strip_edges("\u0d28\u0d4d\u200d\u200b") == "\u0d28\u0d4d\u200d"
    assert strip_edges("positive\u200d") == "positive" and strip_edges("\u200c\u200d") == ""
