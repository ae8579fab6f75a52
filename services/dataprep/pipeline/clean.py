"""Cleans the text of a row: line ends, control characters, Unicode form, whitespace, HTML, broken encoding.

Combining marks, joiners and all letters of every script stay.
"""

import html
import re
from collections.abc import Callable
from typing import Any

from millstream.dataset.v1.dataset_pb2 import Cleaning
from recipekit.edges import strip_edges
from recipekit.text_limits import compose
from services.dataprep.pipeline.read import BadRow

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


def cleaner(cleaning: Cleaning) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A function from a row to the row with clean text, also inside lists and objects. It raises BadRow."""
    steps: list[Callable[[str], str]] = []
    if cleaning.fix_encoding:
        import ftfy

        steps.append(ftfy.fix_encoding)
    if cleaning.strip_html:
        steps.append(strip_html)
    steps += [_plain, strip_edges] if cleaning.keep_whitespace else [_plain, _single_spaces, strip_edges]

    def clean_text(text: str) -> str:
        if not text.isascii() and _SURROGATES.search(text):
            raise BadRow("broken Unicode")
        for step in steps:
            text = step(text)
        return text

    def clean(value: Any, depth: int = 0) -> Any:
        if isinstance(value, str):
            return clean_text(value)
        if depth > DEEPEST:
            raise BadRow("nested too deeply")
        if isinstance(value, list):
            return [clean(item, depth + 1) for item in value]
        if isinstance(value, dict):
            return {_checked_key(key): clean(item, depth + 1) for key, item in value.items()}
        return value

    return lambda row: {_checked_key(key): clean(value) for key, value in row.items()}


def _checked_key(key: str) -> str:
    if _SURROGATES.search(key):
        raise BadRow("broken Unicode")
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
        raise BadRow("broken HTML") from None


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
