"""Patterns of keys: `*` is one segment, `**` at the end all that is left."""

import re
from functools import lru_cache


@lru_cache(256)
def matcher(pattern: str) -> re.Pattern[str]:
    """Matches, as a whole, the keys of a pattern."""
    return re.compile(re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^/]+"))


def folder_of(pattern: str) -> str:
    """The prefix that all keys of a pattern share."""
    return pattern.partition("*")[0]
