"""Labels stay as the file spells them, but for what shows nothing at their edges."""

import pytest

from millstream.dataset.v1.dataset_pb2 import Cleaning, DatasetSpec
from tests.unit.dataprep.test_labels import counted, file, reports
from tests.worlds.dataprep import World, lines


@pytest.mark.parametrize("hidden", ["\ufe0f", "\U000e0100", "\x00", "\x7f", "\u17b4", "\U000e0020"])
async def test_what_shows_nothing_at_the_edge_of_a_label_makes_no_second_label_and_is_counted(hidden: str) -> None:
    async with World().running() as world:
        ended = await world.do(lines(file(120, lambda n: "ab"[n % 2] + hidden * (n % 3 == 0))))
        report = (await world.snapshot()).labels
        assert counted(report.counts) == {"a": 60, "b": 60} and not report.warnings
        assert ended.file.trimmed_labels == 40


async def test_options_of_cleaning_leave_labels_as_the_file_spells_them() -> None:
    """`List<int>` and `List<str>` became one label, and callers got `List`."""
    names = ["List<int>", "List<str>", "A &amp; B", "sch\u00c3\u00b6n"]
    cleaning = Cleaning(strip_html=True, fix_encoding=True)
    (report,) = await reports(
        file(160, lambda n: names[n % 4]), spec=DatasetSpec(recipe="toy_words", cleaning=cleaning)
    )
    assert counted(report.counts) == dict.fromkeys(names, 40)
