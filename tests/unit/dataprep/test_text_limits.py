"""A text that would hold up the import is cut or quarantined, and says so."""

from typing import Any

import pytest

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV
from recipekit.text_limits import LONGEST_TEXT, MOST_MARKS
from services.dataprep.pipeline.read import Refused
from services.dataprep.pipeline.rules import SPLITS
from tests.recipes.toy_words.sample import rows as sample_rows
from tests.unit.dataprep.test_rows import made, quarantined
from tests.worlds.dataprep import lines


@pytest.mark.timeout(20)
def test_a_cell_of_marks_is_cut_and_holds_nobody_up() -> None:
    text = "\u0316\u0301" * (LONGEST_TEXT // 2 - 2)
    result, parts = made(lines([*sample_rows(), {"text": f"seen{text}", "label": "good"}]))
    kept = [row["text"] for split in SPLITS for row in parts[split] if row["text"].startswith("see")]
    assert [len(text) for text in kept] == [len("seeń") + MOST_MARKS - 1] and result.rows.quarantined == 0


@pytest.mark.timeout(20)
def test_a_column_name_of_marks_is_refused_at_once() -> None:
    header = "a" + "\u0301\u0316" * 200_000
    row = f"text,label,{header}\n".encode() + b"".join(f"row {i},good,x\n".encode() for i in range(150))
    with pytest.raises(Refused, match="400,001 characters, of 200 at most"):
        made(row, file_format=FORMAT_CSV)


@pytest.mark.timeout(20)
def test_a_file_of_very_many_columns_is_refused_at_once() -> None:
    """Each name was compared with all before it: 400,000 took hours, and held one of the few slots for imports."""
    columns = range(400_000)
    file = ",".join(f"c{number}" for number in columns) + "\n" + ",".join("1" for _ in columns) + "\n"
    with pytest.raises(Refused, match="1 × more than 1000 columns"):
        made(file.encode(), file_format=FORMAT_CSV)


def test_a_text_that_is_too_long_is_quarantined_with_its_reason() -> None:
    fits, long = "f" * LONGEST_TEXT, "l" * (LONGEST_TEXT + 1)
    rows: list[dict[str, Any]] = [
        {"text": fits, "label": "good"},
        {"text": long, "label": "good"},
        {"text": "a", "label": [["b", long]]},
    ]
    reasons = [row["reason"] for row in quarantined(lines(rows))]
    assert reasons == ["text: more than 100,000 characters", "label: more than 100,000 characters"]
