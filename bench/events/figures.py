"""Figures of rounds, and their median, least and most."""

import statistics
from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]


def summary(rounds: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """The spread of each figure over the rounds."""
    return {name: spread([figures[name] for figures in rounds if name in figures]) for name in rounds[0]}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def format_spread(spread: Mapping[str, float], unit: str) -> str:
    """A figure as it is printed."""
    return f"{spread['median']:9.2f} {unit} ({spread['least']:.2f} to {spread['most']:.2f})"
