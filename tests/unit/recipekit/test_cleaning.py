"""Text is cleaned as its options say, in linear time; what cannot be cleaned is refused with its reason and column."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipekit.cleaning import CannotClean, Cleaning, UnknownCleaning, cleaner, strip_html


@pytest.mark.parametrize(
    ("found", "clean", "cleaning"),
    [
        ("  a \t\n b  ", "a b", Cleaning()),
        ("  a \t\r\n b  ", "a \t\n b", Cleaning(keep_whitespace=True)),
        ("e\u0301\x00\x07", "é", Cleaning()),
        ("\u0c15\u0c4d\u200c\u0c37", "\u0c15\u0c4d\u200c\u0c37", Cleaning()),
        ("a\x85b", "a b", Cleaning()),
        ("<p>One</p><p>Two &amp; three<br>four</p>", "One Two & three four", Cleaning(strip_html=True)),
        ("3 < 5 and <3 & more", "3 < 5 and <3 & more", Cleaning(strip_html=True)),
        ("a<script>alert('<b>')</script>b<!-- c -->", "ab", Cleaning(strip_html=True)),
        ("a<![if IE]>b<![endif]> <![c <!-- d", "ab <![c <!-- d", Cleaning(strip_html=True)),
        ("<me@here.org> &lt;b&gt; <A HREF='x'>y</A>", "<me@here.org> <b> y", Cleaning(strip_html=True)),
        ("a<STYLE>b</style >c<script src=x>d</script><style>e", "ace", Cleaning(strip_html=True)),
        ("<b>x</b>", "<b>x</b>", Cleaning()),
        ("schÃ¶n", "schön", Cleaning(fix_encoding=True)),
        ("schÃ¶n", "schÃ¶n", Cleaning()),
    ],
)
def test_cleaning(found: str, clean: str, cleaning: Cleaning) -> None:
    assert cleaner(cleaning)({"a": found, "b": [found, {"c": found}], "n": 1}) == {
        "a": clean, "b": [clean, {"c": clean}], "n": 1
    }  # fmt: skip


@settings(deadline=None)
@given(st.text(), st.booleans())
def test_cleaning_twice_is_cleaning_once(text: str, keep: bool) -> None:
    clean = cleaner(Cleaning(keep_whitespace=keep))
    try:
        once = clean({"text": text})
    except CannotClean:
        return
    assert clean(once) == once


@pytest.mark.parametrize(
    "unit", ["<!--", "<a ", "<a b='", "<", "</", "<script>", "<style ", "</script", "<!", "&", "&#1"]
)
@pytest.mark.timeout(20)
def test_html_made_to_be_slow_is_not(unit: str) -> None:
    strip_html(unit * (1_000_000 // len(unit)))


@pytest.mark.parametrize(
    ("row", "reason", "column"),
    [
        ({"good": "x", "text": "\ud800"}, "broken Unicode", "text"),
        ({"good": "x", "\udfff": "x"}, "broken Unicode", "\udfff"),
        ({"good": "x", "text": [[{"deep": f"&#{'9' * 5000};"}]]}, "broken HTML", "text"),
    ],
)
def test_what_cannot_be_cleaned_names_its_column(row: dict[str, object], reason: str, column: str) -> None:
    with pytest.raises(CannotClean, match=reason) as caught:
        cleaner(Cleaning(strip_html=True))(row)
    assert caught.value.column == column


def test_an_option_of_a_later_version_is_not_ignored() -> None:
    assert Cleaning.of({"strip_html": True}) == Cleaning(strip_html=True)
    with pytest.raises(UnknownCleaning, match="strip_emoji"):
        Cleaning.of({"strip_html": True, "strip_emoji": True})
