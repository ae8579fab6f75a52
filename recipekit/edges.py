"""The edges of a text, where invisible characters hide: `positive` and `positive` with a zero-width space are one label."""

import unicodedata

_JOINERS = frozenset("\u200c\u200d")
_VIRAMA = 9
EDGE = "".join(
    (
        "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a",
        "\u2028\u2029\u202f\u205f\u3000",  # white space
        "\xad\u034f\u061c\u115f\u1160\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e",
        "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f",
        "\u2800\u3164\ufeff\uffa0\ufff9\ufffa\ufffb",  # zero-width, byte order mark, directions, fillers
    )
)
"""Characters that show nothing. Tags and Arabic signs are not among them: they belong to what they stand beside."""
_EDGE = frozenset(EDGE)


def strip_edges(text: str) -> str:
    """The text without invisible characters before and after it. A joiner stays that shapes the letter before it."""
    if not text or (text[0] not in _EDGE and text[-1] not in _EDGE):
        return text
    started = text.lstrip(EDGE)
    ended = started.rstrip(EDGE)
    after = started[len(ended) : len(ended) + 1]
    if after in _JOINERS and unicodedata.combining(ended[-1]) == _VIRAMA:
        return ended + after
    return ended
