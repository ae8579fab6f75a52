"""Files as people have them: what a caller sees of an import and of its rows."""

import pytest

from millstream.dataset.v1.import_pb2 import Import
from tests.worlds.dataprep import World

HEADER = "text,label\n"


def spoiled(count: int, places: dict[int, str]) -> list[str]:
    """Lines without quotes, but for some."""
    return [
        places.get(number, f"music scene {number},{'positive' if number % 2 else 'negative'}\n")
        for number in range(count)
    ]


@pytest.mark.parametrize("quote", ['"music cast,negative\n', '"music" cast,negative\n', 'music cast,"negative\n'])
@pytest.mark.parametrize(
    "next_quote", ['"plot pace",negative\n', 'plot "pace",negative\n', '"plot ""pace""",negative\n']
)
async def test_a_stray_quote_costs_one_row_of_a_file(quote: str, next_quote: str) -> None:
    lines = spoiled(600, {20: quote, 500: next_quote})
    async with World().running() as world:
        ended = await world.do((HEADER + "".join(lines)).encode(), file_name="a.csv")
        snapshot = await world.snapshot()
        assert (ended.rows_read, snapshot.rows.kept, snapshot.rows.quarantined) == (600, 599, 1)
        (row,) = await world.rows("quarantine")
        assert (row["line"], row["raw"]) == (22, quote.rstrip("\n"))


async def test_the_quarantine_names_the_lines_that_were_read_again() -> None:
    lines = spoiled(600, {20: '"music cast,negative\n', 500: '"plot pace",negative\n'})
    async with World().running() as world:
        await world.do((HEADER + "".join(lines)).encode(), file_name="a.csv")
        (row,) = await world.rows("quarantine")
        assert row["note"] == "the record seemed to have the lines 22 to 502: all but the first were read again"
        assert dict((await world.snapshot()).quarantine_reasons) == {"broken quotes": 1}


async def test_a_quote_that_is_never_closed_costs_one_row_also_near_the_end() -> None:
    for at in (20, 118, 119):
        lines = spoiled(120, {at: '"film and plot were superb,positive\n'})
        async with World().running() as world:
            ended = await world.do((HEADER + "".join(lines)).encode(), file_name="a.csv")
            assert ended.state == Import.STATE_SUCCEEDED
            assert dict((await world.snapshot()).quarantine_reasons) == {"a quote is never closed": 1}
            assert (await world.snapshot()).rows.kept == 119
