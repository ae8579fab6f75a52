"""Quotes that a backslash escapes are read where the whole file writes them so, and are named otherwise."""

import csv
from collections import Counter
from functools import partial
from itertools import chain

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from millstream.dataset.v1.import_pb2 import Import
from services.dataprep.pipeline.csv_dialect import Dialect, dialect_of
from services.dataprep.pipeline.csv_records import CsvRecords
from tests.unit.dataprep.test_files import HEADER, spoiled
from tests.worlds.dataprep import World

LONGEST = 4 << 20
ESCAPED = r'"they said \"well, well\" in show {}",positive' "\n"
REASON = "a quote is escaped by a backslash, not doubled"
BACKSLASH = "comma, quotes escaped by a backslash"
DOUBLED = "comma, doubled quotes"


def file(places: dict[int, str], count: int = 120) -> list[str]:
    """Lines of which every fourth has quotes that are escaped, and those of some places."""
    return [HEADER, *spoiled(count, {**{n: ESCAPED.format(n) for n in range(0, count, 4)}, **places})]


async def imported(world: World, lines: list[str]) -> Import:
    return await world.do("".join(lines).encode(), file_name="a.csv")


async def test_a_file_whose_quotes_are_escaped_throughout_is_read_and_its_dialect_shown() -> None:
    async with World().running() as world:
        ended = await imported(world, file({}))
        snapshot = await world.snapshot()
        assert (snapshot.rows.kept, snapshot.rows.quarantined) == (120, 0)
        assert ended.source.dialect == snapshot.source.dialect == BACKSLASH
        assert 'they said "well, well" in show 8' in await world.splits()


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (r'"\"Superb"', '"Superb'),
        (r'"Superb\""', 'Superb"'),
        (r'"\"\""', '""'),
        (r'"in C:\\"', "in C:\\"),
        (r'"in C:\new \"x\""', r'in C:\new "x"'),
        (r"in C:\\new", r"in C:\\new"),
        ("\"two lines,\n of \\\"them\\\"\"", 'two lines, of "them"'),
        ("\"a line that ends in \\\nand more\"", "a line that ends in \\ and more"),
    ],
)  # fmt: skip
async def test_a_backslash_escapes_a_quote_or_a_backslash_in_a_quoted_cell_and_is_a_letter_elsewhere(
    cell: str, text: str
) -> None:
    async with World().running() as world:
        await imported(world, file({3: f"{cell},negative\n"}))
        assert (await world.snapshot()).source.dialect == BACKSLASH
        assert text in await world.splits()


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ('"they said ""well"" in a show",negative\n', 1),
        (r'"a path, C:\",negative' "\n", 1),
        (r"they said \"well\" in a show,negative" "\n", 1),
        ('"two lines\nof a path, C:\\",negative\n', 1),
    ],
    ids=["a doubled quote", "a whole record", "outside a quoted cell", "a whole record of two lines"],
)
async def test_where_a_line_speaks_against_the_escape_each_escaped_quote_costs_its_row_and_is_named(
    line: str, kept: int
) -> None:
    async with World().running() as world:
        ended = await imported(world, file({3: line}))
        assert ended.source.dialect == DOUBLED
        assert dict(ended.file.quarantine_reasons) == {REASON: 30}
        assert ended.file.rows.kept == 89 + kept


async def test_a_line_that_is_broken_either_way_costs_its_own_row() -> None:
    for bad in (r'"they said \"well\" in a show"x,negative' "\n", "one cell\n", '"never closed,negative\n'):
        async with World().running() as world:
            ended = await imported(world, file({50: bad}))
            assert (ended.source.dialect, ended.file.rows.read) == (BACKSLASH, 120), bad
            assert (ended.file.rows.kept, ended.file.rows.quarantined) == (119, 1), bad


async def test_two_stray_quotes_swallow_no_lines_of_a_file_with_escapes() -> None:
    places = {201: '"music cast,negative\n', 501: 'plot pace",negative\n'}
    async with World().running() as world:
        ended = await imported(world, file(places, count=600))
        assert (ended.file.rows.read, ended.file.rows.kept, ended.file.rows.quarantined) == (600, 599, 1)


def test_files_without_escapes_have_doubled_quotes() -> None:
    for some in (
        spoiled(20, {}),
        [r"a backslash \ here,good" "\n"],
        [r'"ends with one\\",good' "\n"],
        [],
        ['"",""\n'],
    ):
        assert dialect_of(partial(chain, [HEADER], some), LONGEST) is Dialect.DOUBLED


TEXTS = st.text(alphabet='ab,"\\\n ', max_size=12)


def escaped(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_cells_that_were_written_with_escapes_are_read_as_they_were(rows: list[tuple[str, str]]) -> None:
    data = "".join(f"{escaped(left)},{escaped(right)}\n" for left, right in rows)
    lines = [HEADER, *data.splitlines(keepends=True)]
    assert [one.cells for one in CsvRecords(lines, LONGEST, backslash=True)][1:] == [[*row] for row in rows]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(alphabet='ab,"\\', max_size=9).map(lambda text: f"{text}\n"), max_size=12))
def test_every_line_is_accounted_for_whatever_the_dialect(lines: list[str]) -> None:
    for backslash in (False, True):
        found = list(CsvRecords([HEADER, *lines], LONGEST, backslash))[1:]
        taken = [line for line in chain(*(one.lines for one in found)) if line != "\n"]
        assert taken == [line for line in lines if line != "\n"]
        assert all(len(one.cells or "ab") == 2 for one in found)
        assert all(len(one.lines) == 1 for one in found if one.cells is None)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
@example([("\\\\\\", ",\n")])
@example([('"\n\\', ",\n")])
def test_a_file_that_doubles_its_quotes_is_never_read_otherwise(rows: list[tuple[str, str]]) -> None:
    lines = [HEADER]
    for row in rows:
        cells = ",".join('"' + cell.replace('"', '""') + '"' for cell in row)
        lines += f"{cells}\n".splitlines(keepends=True)
    assert [*csv.reader(lines, strict=True)][1:] == [[*row] for row in rows]
    assert dialect_of(lambda: lines, LONGEST) is Dialect.DOUBLED


@pytest.mark.parametrize("unit", ['"a\\"\n', '"\\"a\\"",b\n', '"\\"a\n' + "b\n" * 20 + 'c",d\n', '"\\",\n'])
def test_the_dialect_of_a_file_made_to_be_read_again_is_found_in_linear_time(
    unit: str, parsed_lines: Counter[str]
) -> None:
    lines = (unit * 1000).splitlines(keepends=True)
    dialect_of(lambda: [HEADER, *lines], LONGEST)
    assert parsed_lines["all"] <= 5 * len(lines) + 8
