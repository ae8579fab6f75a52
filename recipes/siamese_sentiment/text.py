"""Telugu text: canonical form, words, graphemes and hashed n-grams.

Telugu writes vowels and conjuncts as combining marks, which belong to their letter: they are never stripped, and words
and n-grams never begin inside one. Python's `\\w` does not match them, so words are found by Unicode category.
"""

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

VIRAMA = "\u0c4d"
JOINERS = {ord(c): None for c in "\u200b\u200c\u200d\ufeff"}
"""Zero-width characters: writers use them at will within the same word, so they distinguish no words."""


def normalise(text: str) -> str:
    """NFC, without zero-width characters, small letters where a script has them."""
    return unicodedata.normalize("NFC", text).translate(JOINERS).lower()


@lru_cache(maxsize=1 << 14)
def _kind(character: str) -> str:
    category = unicodedata.category(character)
    if category[0] in "LMN":
        return "word"
    return "space" if category[0] in "ZC" else "sign"


def words(text: str) -> list[str]:
    """Words (letters, their marks, digits) and signs, each sign by itself, as they follow each other in the text."""
    found: list[str] = []
    inside = False
    for character in normalise(text):
        kind = _kind(character)
        if kind == "word" and inside:
            found[-1] += character
        elif kind != "space":
            found.append(character)
        inside = kind == "word"
    return found


def graphemes(word: str) -> list[str]:
    """Characters as readers see them: a letter with its marks and the letters that a virama joins to it."""
    clusters: list[str] = []
    for character in word:
        tied = clusters and clusters[-1].endswith(VIRAMA) and unicodedata.category(character)[0] == "L"
        if clusters and (tied or unicodedata.category(character)[0] == "M"):
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters


def ngrams(word: str, shortest: int, longest: int) -> Iterator[str]:
    """The word itself and its n-grams of code points, with < and > at its ends."""
    yield f"<{word}>"
    framed = f"<{word}>"
    for n in range(shortest, longest + 1):
        for start in range(len(framed) - n + 1):
            if n < len(framed):
                yield framed[start : start + n]


def bucket(ngram: str, buckets: int) -> int:
    """Row of the n-gram table: the same on every machine and in every process."""
    return crc32(ngram.encode()) % buckets
