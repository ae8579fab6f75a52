"""A stray quote is told from a quoted cell of many lines by the cells of the file's other records."""

import csv
import io
import random

import pytest

from millstream.dataset.v1.dataset_pb2 import FORMAT_CSV, DatasetSpec, SplitSpec
from tests.recipes.toy_words.spec import SPEC as TOY
from tests.unit.dataprep.test_files import HEADER, spoiled
from tests.unit.dataprep.test_rows import Made, made

SPEC = DatasetSpec(split=SplitSpec(validation_share=0.1, test_share=0.1))
SWALLOWS = {"a quote swallows whole records": 1}


def read(lines: list[str], header: str = HEADER, plain: bool = False) -> Made:
    data = (header + "".join(lines)).encode()
    return made(data, file_format=FORMAT_CSV, spec=SPEC, recipe=None if plain else TOY)


def texts(found: Made, column: str = "text") -> set[str]:
    return {row[column] for split, rows in found[1].items() if split != "quarantine" for row in rows}


def stray(opens: int, closes: int, count: int = 120) -> list[str]:
    """A quote before the text of one row and one after the text of a later row."""
    lines = spoiled(count, {})
    lines[opens] = f'"{lines[opens]}'
    lines[closes] = lines[closes].replace(",", '",')
    return lines


@pytest.mark.parametrize("between", [1, 2, 3, 9, 80])
@pytest.mark.parametrize("plain", [False, True], ids=["recipe", "plain"])
def test_two_stray_quotes_cost_one_row_however_near_they_are(between: int, plain: bool) -> None:
    found = read(stray(20, 20 + between), plain=plain)
    rows = found[0].rows
    assert (rows.read, rows.kept, rows.quarantined) == (120, 119, 1)
    assert dict(found[0].quarantine_reasons) == SWALLOWS
    (row,) = found[1]["quarantine"]
    assert row["line"] == 22 and f"the lines 22 to {22 + between}" in row["note"]


@pytest.mark.parametrize("every", [2, 6])
def test_stray_quotes_are_seen_though_other_rows_are_ragged(every: int) -> None:
    lines = stray(20, 100)
    for number in range(21, 99, every):
        lines[number] = lines[number].replace(",", ", and more,")
    found = read(lines)
    assert found[0].rows.read == 120
    assert found[0].quarantine_reasons["a quote swallows whole records"] == 1
    assert found[0].quarantine_reasons["too many cells"] == len(range(21, 99, every))


def test_stray_quotes_all_over_a_file_swallow_nothing() -> None:
    rng = random.Random(5)
    lines = spoiled(3000, {})
    for number in rng.sample(range(3000), 60):
        lines[number] = f'"{lines[number]}' if number % 2 else lines[number].replace(",", '",')
    found = read(lines)
    assert found[0].rows.read == 3000
    assert found[0].rows.kept >= 2940


def test_stray_quotes_are_seen_where_the_file_is_sorted_by_label() -> None:
    lines = sorted(spoiled(3000, {}), key=lambda line: line.partition(",")[2])
    lines[2900] = f'"{lines[2900]}'
    lines[2905] = lines[2905].replace(",", '",')
    assert read(lines)[0].rows.kept == 2999


def written(texts_of: list[str], **columns: list[str]) -> list[str]:
    """Records as a program writes them."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(zip(texts_of, *columns.values(), strict=True))
    return file.getvalue().splitlines(keepends=True)


@pytest.mark.parametrize("count", [2, 3, 14, 40])
@pytest.mark.parametrize("between", [", more ", ",more ", ",", " and "])
def test_a_cell_of_many_lines_is_one_row_whatever_commas_are_in_it(count: int, between: str) -> None:
    cells = [
        "\n".join(f"line {k} of {i}{between}{k}" for k in range(count)) if i % 10 == 0 else f"text {i}"
        for i in range(120)
    ]
    found = read(written(cells, label=["good", "bad"] * 60))
    assert (found[0].rows.read, found[0].rows.kept) == (120, 120), dict(found[0].quarantine_reasons)
    assert texts(found) == {" ".join(cell.split()) for cell in cells}


@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_the_quoted_cell_may_be_any_column(place: int) -> None:
    cells = ["one,\ntwo, three\nfour,," if i % 20 == 3 else f"text {i}" for i in range(120)]
    others = [[str(i) for i in range(120)], ["good", "bad"] * 60]
    columns = [*others[:place], cells, *others[place:]]
    names = ["id", "label"]
    names.insert(place, "text")
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(zip(*columns, strict=True))
    whole = file.getvalue().splitlines(keepends=True)
    found = read(whole, header=",".join(names) + "\n", plain=True)
    assert found[0].rows.kept == 120
    # Now one row whose quote is never meant.
    at = next(i for i, line in enumerate(whole) if line.startswith("text 40,") or ",text 40" in line)
    whole[at] = whole[at].replace("text 40", '"text 40')
    end = next(i for i, line in enumerate(whole) if "text 42" in line)
    whole[end] = whole[end].replace("text 42", 'text 42"')
    found = read(whole, header=",".join(names) + "\n", plain=True)
    assert (found[0].rows.read, found[0].rows.kept) == (120, 119), dict(found[0].quarantine_reasons)


def test_a_bare_carriage_return_in_a_cell_ends_no_record_and_moves_no_line_number() -> None:
    lines = spoiled(120, {50: "it was superb\rnot good at all,negative\n", 60: "one cell\n"})
    found = read(lines)
    assert (found[0].rows.read, found[0].rows.kept, found[0].rows.quarantined) == (120, 119, 1)
    assert "it was superb not good at all" in texts(found)
    assert found[1]["quarantine"][0]["line"] == 62


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n", "\n"])
def test_any_line_end_ends_a_record_and_counts_once(end: str) -> None:
    lines = [line.replace("\n", end) for line in spoiled(120, {60: "one cell\n"})]
    found = read(lines, header=HEADER.replace("\n", end))
    assert (found[0].rows.read, found[0].rows.kept) == (120, 119)
    assert found[1]["quarantine"][0]["line"] == 62


def test_some_lines_of_another_program_are_records_too() -> None:
    lines = spoiled(120, {})
    found = read([*lines[:60], *(line.replace("\n", "\r") for line in lines[60:])])
    assert found[0].rows.kept == 120


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_the_header_of_a_second_file_is_no_row(mark: str) -> None:
    lines = spoiled(120, {})
    found = read([*lines[:60], mark + HEADER, *lines[60:]], header=mark + HEADER)
    assert dict(found[0].quarantine_reasons) == {"the header again: files were joined": 1}
    assert found[1]["quarantine"][0]["line"] == 62 and found[0].rows.kept == 120


def test_names_of_columns_lose_what_shows_nothing() -> None:
    found = read(spoiled(120, {}), header="\ufeff\ufefftext\x00,\u200blabel\ufe0f\n")
    assert found[0].rows.kept == 120 and {column.name for column in found[0].columns} == {"text", "label"}
