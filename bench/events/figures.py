"""Figures of rounds, and what they come to: the median, the least and the most."""

import statistics
from collections.abc import Mapping, Sequence

Figures = Mapping[str, float]


def summary(rounds: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """By name of a figure."""
    return {name: spread([figures[name] for figures in rounds if name in figures]) for name in rounds[0]}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def words(spread: Mapping[str, float], unit: str) -> str:
    """One figure as it is printed."""
    return f"{spread['median']:9.2f} {unit} ({spread['least']:.2f} to {spread['most']:.2f})"
