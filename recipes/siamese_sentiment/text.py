"""Telugu text: canonical form, words and hashed n-grams.

Telugu writes vowels and conjuncts as combining marks, which belong to their letter: they are never stripped, and words
and n-grams never begin inside one. Python's `\\w` does not match them, so words are found by Unicode category.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

from recipekit.text_limits import LONGEST_WORD, compose

JOINERS = {ord(c): None for c in "\u200b\u200c\u200d\ufeff"}
"""Zero-width characters: writers use them at will within the same word, so they distinguish no words."""


def normalise(text: str) -> str:
    """NFC, without zero-width characters, small letters where a script has them."""
    return compose(text).translate(JOINERS).lower()


@lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "space" if category[0] in "ZC" else "sign"


def words(text: str, most: int | None = None) -> list[str]:
    """The first `most` words (letters, their marks, digits) and signs, each sign by itself, as they follow each other.

    Each character is looked at once, and none after the last word; of a word beyond LONGEST_WORD the rest is left out.
    """
    found: list[str] = []
    canonical = normalise(text)
    begin = -1
    for place, character in enumerate(canonical):
        kind = _kind(character)
        if kind == "word" and begin >= 0:
            continue
        if begin >= 0:
            found.append(canonical[begin : min(place, begin + LONGEST_WORD)])
            begin = -1
        if len(found) == most:
            return found
        if kind == "word":
            begin = place
        elif kind == "sign":
            found.append(character)
    if begin >= 0 and len(found) != most:
        found.append(canonical[begin : begin + LONGEST_WORD])
    return found


def ngrams(word: str, shortest: int, longest: int) -> Iterator[str]:
    """The word itself and its n-grams of code points, with < and > at its ends."""
    yield f"<{word}>"
    framed = f"<{word}>"
    for n in range(shortest, min(longest, len(framed) - 1) + 1):
        for start in range(len(framed) - n + 1):
            yield framed[start : start + n]


def bucket(ngram: str, buckets: int) -> int:
    """Row of the n-gram table: the same on every machine and in every process."""
    return crc32(ngram.encode()) % buckets
