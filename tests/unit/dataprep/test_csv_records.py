"""A wrong quote in a CSV costs its own line: every other line is read, and every line is accounted for."""

import csv
import random
from collections import Counter
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.dataprep.pipeline.csv_records import MOST_LINES, SWALLOWED, CsvRecord, CsvRecords
from tests.unit.dataprep.test_files import HEADER, spoiled

LONGEST = 4 << 20


def records(lines: list[str], longest: int = LONGEST) -> list[CsvRecord]:
    """The records after the header."""
    return list(CsvRecords([HEADER, *lines], longest))[1:]


def straightforward(lines: list[str]) -> list[tuple[int, int, list[str] | None]]:
    """(line, how many lines it takes, cells) by the plain definition, in quadratic time."""
    found: list[tuple[int, int, list[str] | None]] = []
    at = 0
    while at < len(lines):
        reader = csv.reader(lines[at:], strict=True)
        try:
            cells: list[str] | None = next(reader)
        except csv.Error:
            cells = None
        taken = reader.line_num if cells == [] or (cells and len(cells) == 2) else 1
        if cells != []:
            found.append((at + 2, taken, cells if cells and len(cells) == 2 else None))
        at += taken
    return found


def assert_all_are_taken(found: list[CsvRecord], lines: list[str]) -> None:
    """Each line, but for blank ones, is in one record, in order."""
    taken = chain(*(one.lines for one in found))
    assert [line for line in taken if line != "\n"] == [line for line in lines if line != "\n"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet='a,"', max_size=7).map(lambda text: f"{text}\n"), max_size=SWALLOWED))
def test_records_are_those_of_the_plain_definition(lines: list[str]) -> None:
    found = records(lines)
    assert [(one.first, len(one.lines), one.cells) for one in found] == straightforward(lines)
    assert_all_are_taken(found, lines)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_every_line_is_accounted_for_however_quotes_are_damaged(seed: int, damages: int) -> None:
    rng = random.Random(seed)
    whole = [
        f'"a ""{number}"" text\nof two lines",good\n' if rng.random() < 0.2 else f"row {number},bad\n"
        for number in range(60)
    ]
    damaged = "".join(whole)
    for _ in range(damages):
        at = rng.randrange(len(damaged))
        damaged = damaged[:at] + '"' + damaged[at + rng.randrange(2) :]
    lines = damaged.splitlines(keepends=True)
    found = records(lines)
    assert_all_are_taken(found, lines)
    assert all(one.cells is None or len(one.cells) == 2 for one in found)
    assert all(len(one.lines) == 1 for one in found if one.cells is None)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (r'"they said \"well\" again, twice",positive', "a quote is escaped by a backslash, not doubled"),
        (r'"\"Superb\"",positive', "a quote is escaped by a backslash, not doubled"),
        (r'"they said \"well\" again, twice"x,positive', "broken quotes"),
        ('"Superb" scenes and plot,positive', "broken quotes"),
    ],
)
def test_wrong_quotes_in_cells_are_broken_one_by_one(bad: str, reason: str) -> None:
    found = records(spoiled(120, dict.fromkeys(range(0, 120, 4), f"{bad}\n")))
    assert Counter(one.reason for one in found) == {"": 90, reason: 30}


def test_cells_of_many_lines_are_one_row() -> None:
    text = 'scenes and plot\nand, ""more""\n\nend'
    cell = [f"{line}\n" for line in f'"{text}",positive'.split("\n")]
    long = ['"first line\n', *(f"line {number}\n" for number in range(MOST_LINES - 1)), 'last",negative\n']
    found = records([*cell, "plain,negative\n", *cell, *long])
    assert [one.cells[1] for one in found if one.cells] == ["positive", "negative", "positive", "negative"]
    assert found[0].cells == [text.replace('""', '"'), "positive"]
    assert (found[-1].first, found[-1].last) == (11, 11 + MOST_LINES)


def test_a_record_with_more_lines_or_bytes_than_allowed_is_broken() -> None:
    long = ['"first line\n', *(f"line {number}\n" for number in range(MOST_LINES)), 'last",negative\n']
    found = records(["good,negative\n", *long, "good,negative\n"])
    assert found[1].reason == "a quoted cell is too long" and len(found) == len(long) + 2
    again = Counter(one.reason for one in found)
    assert again == {"": 3, "a quoted cell is too long": 1, "too few cells": MOST_LINES}
    wide = ['"aaaaaaaaaa\n', "bbbbbbbbbb\n", 'c",negative\n', "good,negative\n"]
    assert records(wide, longest=22)[0].reason == "a quoted cell is too long"
    assert [one.reason for one in records(wide, longest=50)] == ["", ""]


def test_two_quotes_that_fit_do_not_swallow_the_records_between_them() -> None:
    lines = spoiled(600, {20: '"music cast,negative\n', 500: 'plot pace",negative\n'})
    found = records(lines)
    assert Counter(one.reason for one in found) == {"": 599, "a quote swallows whole records": 1}
    assert len(found) == 600


def test_a_record_of_many_lines_with_a_wrong_number_of_cells_is_read_again() -> None:
    found = records(['"one\n', "two,good\n", 'three",good,more\n', "four,bad\n"])
    assert [(one.first, one.last, one.reason) for one in found] == [
        (2, 4, "too many cells"), (3, 3, ""), (4, 4, "too many cells"), (5, 5, "")
    ]  # fmt: skip


@pytest.mark.parametrize("backslash", [False, True])
@pytest.mark.parametrize(
    "unit", ['"a\\"b\n', '"a\\\\"b,"\\"\n', '"a,b\n', '"\n', 'a,"b\nc,d\n', 'a,"b\n"c\n', '"a\n' + "b\n" * 20 + '"c\n']
)
def test_a_file_made_to_be_read_again_and_again_is_parsed_in_linear_time(
    unit: str, backslash: bool, parsed_lines: Counter[str]
) -> None:
    lines = (unit * 3000).splitlines(keepends=True)
    found = list(CsvRecords([HEADER, *lines], LONGEST, backslash))[1:]
    assert_all_are_taken(found, lines)
    # Once more where a backslash before a quote is to be named as the reason.
    assert parsed_lines["all"] <= (3 if "\\" in unit and not backslash else 2) * len(lines) + 2
