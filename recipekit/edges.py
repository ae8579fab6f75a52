"""The edges of a text, where invisible characters hide: `positive` and `positive` with a zero-width space are one label.

What shows nothing: white space, control characters, and the property Default_Ignorable_Code_Point of Unicode 16
(DerivedCoreProperties.txt), with a few fillers and format characters that it leaves out.
"""

import unicodedata
from collections.abc import Iterable

_WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_CONTROLS = ((0x00, 0x08), (0x0E, 0x1B), (0x7F, 0x84), (0x86, 0x9F))
_IGNORABLE = (
    *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
    *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF)),
    *((0xFFA0, 0xFFA0), (0xFFF0, 0xFFF8), (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF)),
)
_OTHERS = ((0x2800, 0x2800), (0xFFF9, 0xFFFB), (0x13430, 0x1343F))
"""The empty Braille cell, interlinear annotation, Egyptian joiners."""


def _characters(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(chr(code) for first, last in ranges for code in range(first, last + 1))


EDGE = _WHITE_SPACE + _characters((*_CONTROLS, *_IGNORABLE, *_OTHERS))
"""Characters that show nothing. Arabic signs are not among them: they belong to what they stand beside."""
_EDGE = frozenset(EDGE)
_JOINERS = frozenset("\u200c\u200d")
_VIRAMA = 9
_EMOJI_STYLES = frozenset("\ufe0e\ufe0f")
_NOT_SYMBOLS = frozenset("\u203c\u2049\u3030")
"""Characters with an emoji style that are no symbols to Unicode."""
_VARIANTS = frozenset(_characters(((0xFE00, 0xFE0D), (0xE0100, 0xE01EF))))
_MONGOLIAN_VARIANTS = frozenset("\u180b\u180c\u180d\u180f")
_TAGS = frozenset(_characters(((0xE0020, 0xE007F),)))
_BLACK_FLAG = "\U0001f3f4"
_LONGEST_TAG = 32


def strip_edges(text: str) -> str:
    """The text without invisible characters before and after it. One that shapes the character before it stays."""
    if not text or (text[0] not in _EDGE and text[-1] not in _EDGE):
        return text
    # By set, not by str.strip(EDGE), which looks through all of EDGE for each character.
    first, last = 0, len(text)
    while first < last and text[first] in _EDGE:
        first += 1
    while last > first and text[last - 1] in _EDGE:
        last -= 1
    ended = text[first:last]
    return ended + _shaping(ended[-1], text[last : last + _LONGEST_TAG]) if ended else ended


def visible(text: str) -> str:
    """The text as repr() gives it, with everything that shows nothing, but the space, as an escape."""
    return "".join(_escaped(character) if character in _EDGE else character for character in repr(text))


def _escaped(character: str) -> str:
    code = ord(character)
    if character == " ":
        return character
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shaping(base: str, after: str) -> str:
    """The invisible characters right after `base` that change how it looks."""
    first = after[:1]
    if first in _JOINERS:
        return first if unicodedata.combining(base) == _VIRAMA else ""
    if first in _EMOJI_STYLES:
        return first if unicodedata.category(base) in ("So", "Sm", "Sk") or base in _NOT_SYMBOLS else ""
    if first in _VARIANTS:
        return first if unicodedata.category(base) in ("Lo", "Sm") else ""
    if first in _MONGOLIAN_VARIANTS:
        return first if "\u1820" <= base <= "\u18aa" else ""
    if base == _BLACK_FLAG and first in _TAGS:
        return after[: next((i for i, character in enumerate(after) if character not in _TAGS), len(after))]
    return ""
