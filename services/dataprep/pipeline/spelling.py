"""How labels are written: a whole number in one way."""

import re
from typing import Any

_DECIMAL = re.compile(r"(-?)(0|[1-9][0-9]{0,17})\.0{1,18}")
_EXACT = 2**53
"""From here on a double may be another number than the one in the file."""


def whole_number(label: Any) -> Any:
    """`1` for `1.0` or `1.00`, as a text or as a number of JSON; any other label as it is.

    pandas writes a column of integers that has gaps as decimals, so both are one label. Nothing is rounded: a text with an
    exponent, a leading zero or more than 18 digits is another label.
    """
    if isinstance(label, float):
        return int(label) if label.is_integer() and abs(label) < _EXACT else label
    if not isinstance(label, str) or not (found := _DECIMAL.fullmatch(label)):
        return label
    return "0" if found[2] == "0" else found[1] + found[2]


def as_text(label: Any) -> Any:
    """An integer or a boolean as JSON writes it; any other label as it is."""
    if isinstance(label, bool):
        return "true" if label else "false"
    return str(label) if isinstance(label, int) else label
