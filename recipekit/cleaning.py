"""Cleans the text of a row: line ends, control characters, Unicode form, whitespace, HTML, broken encoding.

Combining marks, joiners and all letters of every script stay. Dataprep cleans the rows of a snapshot, and inference the
rows of a request, by the same options: what a model was trained and measured on is what it reads when it serves. Both
clean first and check the schema after that. Cleaning is not repeated: `&amp;lt;` means `&lt;`, and that means `<`.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from recipekit.edges import strip_edges
from recipekit.text_limits import compose

DEEPEST = 20
"""Lists and objects may be nested so deep in a cell."""
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_TAG = re.compile(r"</?([A-Za-z][A-Za-z0-9:-]{0,40})(?:[\s/][^<>]*)?>|<[!?][^<>]*>")
_HIDDEN = re.compile(r"<!--|<(script|style)(?=[\s/>])", re.IGNORECASE)
_HIDDEN_ENDS = {
    "": re.compile("-->"),
    "script": re.compile("</script[^<>]*>", re.IGNORECASE),
    "style": re.compile("</style[^<>]*>", re.IGNORECASE),
}
_BLOCKS = frozenset(
    (
        *("address", "article", "blockquote", "br", "dd", "div", "dl", "dt", "h1", "h2", "h3", "h4", "h5", "h6", "hr"),
        *("li", "ol", "p", "pre", "section", "table", "td", "th", "tr", "ul"),
    )
)


@dataclass(frozen=True)
class Cleaning:
    """What is done to the text of every row beyond line ends, control characters and composed letters (NFC)."""

    strip_html: bool = False
    keep_whitespace: bool = False
    """Strip the ends of a text only; otherwise runs of whitespace become one space."""
    fix_encoding: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Cleaning":
        """The options by their names; those left out are off. Raises UnknownCleaning for any other name."""
        if unknown := sorted(options.keys() - {option.name for option in fields(cls)}):
            raise UnknownCleaning(f"this version cannot clean rows by {', '.join(unknown)}: upgrade it")
        return cls(**options)


class UnknownCleaning(LookupError):
    """Rows were cleaned by an option that this version lacks, so it cannot clean others alike."""


class CannotClean(ValueError):
    """A value cannot be cleaned. The text is a short reason from a closed set."""

    column = ""
    """The column of the row that holds the value."""


def cleaner(cleaning: Cleaning | None, label: str = "") -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """A function from a row to the row with clean text, also inside lists and objects. It raises CannotClean.

    The column `label` holds names: HTML and encoding in it stay, so that no two of them become one. None: the row as it is.
    """
    if cleaning is None:
        return dict
    text_steps, name_steps = _steps(cleaning), _steps(Cleaning(keep_whitespace=cleaning.keep_whitespace))

    def clean(value: Any, steps: Sequence[Callable[[str], str]], depth: int = 0) -> Any:
        if isinstance(value, str):
            return _clean_text(value, steps)
        if depth > DEEPEST:
            raise CannotClean("nested too deeply")
        if isinstance(value, list):
            return [clean(item, steps, depth + 1) for item in value]
        if isinstance(value, dict):
            return {_checked_key(key): clean(item, steps, depth + 1) for key, item in value.items()}
        return value

    def clean_row(row: Mapping[str, Any]) -> dict[str, Any]:
        cleaned: dict[str, Any] = {}
        for column, value in row.items():
            try:
                cleaned[_checked_key(column)] = clean(value, name_steps if column == label else text_steps)
            except CannotClean as error:
                error.column = column
                raise
        return cleaned

    return clean_row


def clean_name(text: str) -> str:
    """The name of a column: one kind of line end, no control characters, composed letters, no invisible edges."""
    return strip_edges(_plain(text))


def _clean_text(text: str, steps: Sequence[Callable[[str], str]]) -> str:
    if not text.isascii() and _SURROGATES.search(text):
        raise CannotClean("broken Unicode")
    for step in steps:
        text = step(text)
    return text


def _steps(cleaning: Cleaning) -> list[Callable[[str], str]]:
    steps: list[Callable[[str], str]] = []
    if cleaning.fix_encoding:
        import ftfy

        steps.append(ftfy.fix_encoding)
    if cleaning.strip_html:
        steps.append(strip_html)
    return [*steps, _plain, strip_edges] if cleaning.keep_whitespace else [*steps, _plain, _single_spaces, strip_edges]


def _checked_key(key: str) -> str:
    if _SURROGATES.search(key):
        raise CannotClean("broken Unicode")
    return key


def _plain(text: str) -> str:
    """One kind of line end, no control characters, composed letters (NFC)."""
    return compose(_CONTROLS.sub("", _LINE_ENDS.sub("\n", text)))


def _single_spaces(text: str) -> str:
    return " ".join(text.split())


def strip_html(text: str) -> str:
    """The text without tags and with entities decoded; a block element becomes a line end. `3 < 5` and `<a@b.org>` stay.

    Every step takes linear time. html.parser takes minutes for a hostile cell of 100 kB, and holds the GIL meanwhile.
    """
    if "<" not in text and "&" not in text:
        return text
    shown = _TAG.sub(lambda tag: "\n" if (tag[1] or "").lower() in _BLOCKS else "", _without_hidden(text))
    try:
        return html.unescape(shown)
    except ValueError:
        raise CannotClean("broken HTML") from None


def _without_hidden(text: str) -> str:
    """Remove comments, scripts and styles; one without an end stays."""
    shown: list[str] = []
    place, endless = 0, set()
    for start in _HIDDEN.finditer(text):
        kind = (start[1] or "").lower()
        if start.start() < place or kind in endless:
            continue
        if end := _HIDDEN_ENDS[kind].search(text, start.end()):
            shown.append(text[place : start.start()])
            place = end.end()
        else:
            endless.add(kind)
    return "".join((*shown, text[place:]))
