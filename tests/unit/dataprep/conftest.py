"""What counts the work of the CSV reader."""

from collections import Counter

import pytest

from services.dataprep.pipeline import csv_records


@pytest.fixture
def parsed_lines(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often lines are parsed, under "all"."""
    parsed: Counter[str] = Counter()
    parse = csv_records._parse

    def counting(text: str) -> csv_records._Piece:
        parsed["all"] += 1
        return parse(text)

    monkeypatch.setattr(csv_records, "_parse", counting)
    return parsed
