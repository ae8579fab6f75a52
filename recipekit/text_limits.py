"""What one text may cost: every step on a text takes time in proportion to its length, and its length has a limit.

Import and inference share this, so that a text that one of them takes is the same text in the other.
"""

import re
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any

LONGEST_TEXT = 100_000
"""Characters of one text, where a setting names no other limit. A regular expression or a normalisation holds the
interpreter, and with it every other call, for about 0.3 s on a text of this length at worst."""
LONGEST_WORD = 128
"""Characters of one word: far more than people write. What follows is not read."""
MOST_MARKS = 30
"""Combining marks in a row: far more than any language needs (UAX #15, stream-safe text). To bring a run into canonical
order takes time in proportion to its square."""
_FIRST_MARK, _END_OF_MARKS = 0x300, 0x1F000


class TextTooLong(ValueError):
    """A text in this column of a row has more characters than allowed."""

    def __init__(self, column: str, limit: int) -> None:
        super().__init__(f"more than {limit:,} characters")
        self.column = column


def check_lengths(row: Mapping[str, Any], limit: int) -> None:
    """Raise TextTooLong for the first column with a text, also inside lists and objects, that is longer than the limit."""
    for column, found in row.items():
        open_values = [found]
        while open_values:
            value = open_values.pop()
            if isinstance(value, str) and len(value) > limit:
                raise TextTooLong(column, limit)
            if isinstance(value, Mapping):
                open_values += value.values()
            elif isinstance(value, list):
                open_values += value


def compose(text: str) -> str:
    """The text in composed form (NFC); of more than MOST_MARKS combining marks in a row the rest is cut off."""
    if text.isascii():
        return text
    composed = unicodedata.normalize("NFC", _run_of_marks().sub(r"\1", text))
    # A few marks become two in composed form, so a run may have grown.
    return _run_of_marks().sub(r"\1", composed)


@cache
def _run_of_marks() -> re.Pattern[str]:
    """MOST_MARKS marks, and those after them. Compiled at the first use."""
    characters = "".join(chr(code) for code in range(_FIRST_MARK, _END_OF_MARKS) if _is_mark(chr(code)))
    return re.compile(f"([{characters}]{{{MOST_MARKS}}})[{characters}]+")


def _is_mark(character: str) -> bool:
    """Whether canonical order may move it: all that it decomposes into has a combining class.

    U+0F73 has none itself, but is two characters that have one.
    """
    return all(unicodedata.combining(part) for part in unicodedata.normalize("NFD", character))
