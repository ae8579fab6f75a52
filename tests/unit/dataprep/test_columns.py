"""The column report of a snapshot."""

import pytest

from servicekit.limits import COLUMN_CHARACTERS, PAGE_BYTES
from services.dataprep.pipeline.columns import (
    FEW_DISTINCT,
    FREQUENT_BYTES,
    LONGEST_SHOWN,
    MOST_COLUMNS,
    MOST_DISTINCT,
    SHOWN,
    Columns,
)
from services.dataprep.pipeline.read import Refused
from tests.worlds.dataprep import PLAIN, World, lines, sample


def keep_all(column: str) -> bool:
    return True


def test_a_text_column_reports_how_often_it_is_filled_and_how_long_its_texts_are() -> None:
    columns = Columns(keep_all)
    for text in ("a", "abc", "", None, "abc"):
        columns.add({"text": text}, {"text": text})
    (report,) = columns.reports()
    assert (report.name, report.present, report.empty, report.distinct) == ("text", 3, 2, 2)
    assert (report.shortest, report.longest, round(report.mean_length, 3)) == (1, 3, 2.333)
    assert dict(report.frequent) == {"a": 1, "abc": 2}


def test_columns_that_the_snapshot_leaves_out_are_counted_and_marked() -> None:
    columns = Columns(lambda column: column != "extra")
    columns.add({"text": "a", "note": "none"}, {"text": "a", "extra": 5})
    columns.add({"text": "b", "note": "none"}, {"text": "b"})
    reports = {report.name: report for report in columns.reports()}
    assert list(reports) == ["extra", "note", "text"]
    assert {name: report.kept for name, report in reports.items()} == {"extra": False, "note": True, "text": True}
    assert (reports["extra"].present, reports["extra"].empty) == (1, 1)


def test_values_that_are_not_text_are_counted_as_json() -> None:
    columns = Columns(keep_all)
    for value in (1, 1, [2, "é"], {"b": 1, "a": 2}, {"a": 2, "b": 1}):
        columns.add({"x": value}, {"x": value})
    (report,) = columns.reports()
    assert dict(report.frequent) == {"1": 2, '[2, "é"]': 1, '{"a": 2, "b": 1}': 2}
    assert (report.longest, report.mean_length) == (0, 0.0)


def test_the_most_frequent_values_come_first_and_only_of_columns_with_few_values() -> None:
    few, many = Columns(keep_all), Columns(keep_all)
    for number in range(FEW_DISTINCT):
        for _ in range(1 + (number == 7)):
            few.add({"x": f"v{number}"}, {"x": ""})
    assert len(few.reports()[0].frequent) == SHOWN and few.reports()[0].frequent["v7"] == 2
    for number in range(FEW_DISTINCT + 1):
        many.add({"x": f"v{number}"}, {"x": ""})
    assert not many.reports()[0].frequent


def test_long_texts_are_counted_as_distinct_but_not_shown() -> None:
    columns = Columns(keep_all)
    for end in ("a", "b", "b"):
        text = "x" * LONGEST_SHOWN + end
        columns.add({"text": text}, {"text": text})
    (report,) = columns.reports()
    assert report.distinct == 2 and not report.frequent


def test_the_count_of_distinct_values_and_of_columns_is_bounded() -> None:
    columns = Columns(keep_all)
    for number in range(MOST_DISTINCT + 50):
        columns.add({"x": number}, {"x": number})
    (report,) = columns.reports()
    assert (report.distinct, report.distinct_stopped) == (MOST_DISTINCT, True)
    with pytest.raises(Refused, match=f"more than {MOST_COLUMNS} different columns"):
        columns.add({f"c{number}": 1 for number in range(MOST_COLUMNS)}, {})


def test_a_count_of_distinct_values_that_is_complete_says_so() -> None:
    columns = Columns(keep_all)
    for number in (*range(MOST_DISTINCT), 5):
        columns.add({"x": number}, {"x": number})
    (report,) = columns.reports()
    assert (report.distinct, report.distinct_stopped) == (MOST_DISTINCT, False)


def test_the_report_of_many_columns_with_long_values_is_bounded() -> None:
    columns = Columns(keep_all)
    for number in range(SHOWN):
        row = {f"{column:04}" + "é" * 196: f"{number:02}" + "é" * (LONGEST_SHOWN - 2) for column in range(MOST_COLUMNS)}
        columns.add(row, row)
    reports = columns.reports()
    assert [report.distinct for report in reports] == [SHOWN] * MOST_COLUMNS
    assert sum(report.ByteSize() for report in reports) < FREQUENT_BYTES + MOST_COLUMNS * 1000
    assert len(reports[0].frequent) == SHOWN and not reports[-1].frequent


async def test_rows_with_endless_column_names_are_quarantined_and_the_snapshot_stays_readable() -> None:
    endless = [{"text": f"a good word {n}", "label": "good", f"{n}" + "x" * 3_900_000: 1} for n in range(5)]
    longest = {"text": "one more", "label": "good", "x" * COLUMN_CHARACTERS: "kept"}
    async with World().running() as world:
        ended = await world.do(sample() + lines([*endless, longest]), spec=PLAIN)
        snapshot = await world.snapshot(ended.snapshot_number)
    reason = f"a column's name has more than {COLUMN_CHARACTERS} characters"
    assert dict(snapshot.quarantine_reasons) == {reason: 5}
    assert "x" * COLUMN_CHARACTERS in [column.name for column in snapshot.columns]
    assert snapshot.ByteSize() < PAGE_BYTES
