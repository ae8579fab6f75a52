"""Labels that a person would read as one."""

from decimal import Decimal, InvalidOperation

from recipekit.edges import EDGE

_VISIBLE = str.maketrans(dict.fromkeys(set(EDGE) - set(" \t\n"), ""))


def look(label: str) -> str | Decimal:
    """Equal for labels that look alike: they differ in case, in what is invisible, or in how they write one number."""
    text = " ".join(label.casefold().translate(_VISIBLE).split())
    try:
        number = Decimal("nan" if "_" in text else text)
    except InvalidOperation:
        return text
    return number if number.is_finite() else text
