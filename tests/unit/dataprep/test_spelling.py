"""A whole number has one spelling as a label, in every file and snapshot, and nothing else changes."""

from typing import Any

import pytest

from millstream.dataset.v1.import_pb2 import Import
from services.dataprep.pipeline import rules
from services.dataprep.pipeline.spelling import as_text, whole_number
from tests.unit.dataprep.test_labels import counted, file, reports
from tests.worlds.dataprep import PLAIN, World, lines


@pytest.mark.parametrize(
    ("found", "label"),
    [
        ("0.0", "0"), ("1.00", "1"), ("-1.0", "-1"), ("-0.0", "0"), ("10.0", "10"),
        ("9007199254740993.0", "9007199254740993"), (1.0, 1), (-1.0, -1), (-0.0, 0),
    ],
)  # fmt: skip
def test_a_whole_number_with_decimals_is_the_integer(found: Any, label: Any) -> None:
    read = whole_number(found)
    assert (read, type(read)) == (label, type(label))


@pytest.mark.parametrize(
    "label",
    [
        "1", "-1", "0.5", "1.01", "1e0", "1.0e0", "01.0", "+1.0", ".0", "1.", "1.0.0", "1,0", "1.0 ", "v1.0", "\u0661.0",
        "1" * 19 + ".0", "1." + "0" * 19, "", "nan", "1_0.0", 0.5, 1e300, float("nan"), float("inf"), 2.0**53, 1, True,
        None, [1.0],
    ],
)  # fmt: skip
def test_any_other_label_stays_as_it_is(label: Any) -> None:
    assert whole_number(label) is label


def test_integers_and_booleans_are_texts_as_json_writes_them() -> None:
    labels: list[Any] = [1, True, False, "x", 0.5, None, 2**70]
    assert [as_text(label) for label in labels] == ["1", "true", "false", "x", 0.5, None, str(2**70)]


# --- one vocabulary for numbers


def spellings(rows: int = 120, more: int = 0) -> dict[str, tuple[str, bytes]]:
    """(file name, bytes) of rows with one of two labels, in every spelling that one vocabulary covers."""
    texts = [f"music scene {number}" for number in range(rows + more)]

    def csv(*labels: str) -> tuple[str, bytes]:
        cells = [f"{text},{labels[number % len(labels)]}\n" for number, text in enumerate(texts)]
        return "words.csv", ("text,label\n" + "".join(cells)).encode()

    def json_lines(*labels: Any) -> tuple[str, bytes]:
        return "words.jsonl", lines({"text": t, "label": labels[n % len(labels)]} for n, t in enumerate(texts))

    return {
        "integers": csv("0", "1"),
        "decimals": csv("0.0", "1.0"),
        "longer decimals": csv("0.00", "1.000"),
        "both": csv("0", "1", "0.0", "1.0"),
        "edges": csv(" 0.0\u200b", "1.0 "),
        "JSON integers": json_lines(0, 1),
        "JSON decimals": json_lines(0.0, 1.0),
        "JSON texts": json_lines("0", "1.0"),
    }


@pytest.mark.parametrize("spelling", spellings())
async def test_each_spelling_of_whole_numbers_is_one_vocabulary(spelling: str) -> None:
    name, data = spellings()[spelling]
    async with World().running() as world:
        ended = await world.do(data, file_name=name)
        assert ended.state == Import.STATE_SUCCEEDED, ended.refusal
        report = (await world.snapshot()).labels
        assert counted(report.counts) == {"0": 60, "1": 60} and not report.warnings
        assert {row["label"] for row in await world.rows("train")} == {"0", "1"}


@pytest.mark.parametrize("first", spellings())
@pytest.mark.parametrize("second", ["integers", "decimals", "JSON decimals"])
@pytest.mark.parametrize("mode", [Import.MODE_APPEND, Import.MODE_REPLACE])
async def test_files_of_two_spellings_append_and_replace_as_one(
    first: str, second: str, mode: Import.Mode.ValueType
) -> None:
    async with World().running() as world:
        name, data = spellings()[first]
        await world.do(data, file_name=name)
        name, data = spellings(more=40)[second]
        ended = await world.do(data, file_name=name, mode=mode)
        snapshot = await world.snapshot()
        assert (ended.changes.added, ended.changes.removed, ended.file.rows.quarantined) == (40, 0, 0)
        assert counted(snapshot.labels.counts) == {"0": 80, "1": 80} and not snapshot.labels.warnings
        assert not snapshot.labels.new_labels and not snapshot.labels.lost_labels


async def test_labels_that_were_written_otherwise_are_counted_in_the_snapshot_and_in_the_import() -> None:
    async with World().running() as world:
        ended = await world.do(spellings()["both"][1], file_name="a.csv")
        columns = {column.name: column.normalised for column in (await world.snapshot()).columns}
        assert columns == {"label": 60, "text": 0}
        assert (ended.file.normalised_labels, ended.file.trimmed_labels) == (60, 0)
        ended = await world.do(spellings()["edges"][1], file_name="a.csv", mode=Import.MODE_APPEND)
        assert (ended.file.rows.duplicate, ended.file.normalised_labels, ended.file.trimmed_labels) == (120, 120, 120)


async def test_booleans_of_json_are_labels() -> None:
    (report,) = await reports(file(120, lambda n: (True, False)[n % 2]))  # type: ignore[arg-type, return-value]
    assert counted(report.counts) == {"true": 60, "false": 60}


async def test_decimals_that_are_no_labels_stay() -> None:
    rows = [{"text": f"{number}.0", "label": ("0.0", "0.5")[number % 2]} for number in range(120)]
    async with World().running() as world:
        await world.do(lines(rows))
        assert set(await world.splits()) == {row["text"] for row in rows}
        assert counted((await world.snapshot()).labels.counts) == {"0": 60, "0.5": 60}
        await world.do(lines({"id": f"{n}.0", "label": 1.0} for n in range(120)), dataset="plain", spec=PLAIN)
        kept = await world.rows("train", dataset="plain")
        assert all(row["label"] == 1.0 and row["id"].endswith(".0") for row in kept)


async def of_an_earlier_version(world: World, monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, Any]]) -> None:
    """A snapshot whose labels are stored as the file has them."""
    with monkeypatch.context() as before:
        before.setattr(rules, "whole_number", lambda label: label)
        await world.do(lines(rows))
    assert counted((await world.snapshot()).labels.counts).keys() == {row["label"] for row in rows}


@pytest.mark.parametrize("spelling", ["integers", "decimals"])
async def test_an_append_to_a_snapshot_of_before_leaves_one_vocabulary_and_no_quarantine(
    spelling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with World().running() as world:
        await of_an_earlier_version(world, monkeypatch, file(120, lambda n: ("0.0", "1.0")[n % 2]))
        splits = await world.splits()
        name, data = spellings(more=40)[spelling]
        ended = await world.do(data, file_name=name, mode=Import.MODE_APPEND)
        assert (ended.changes.added, ended.changes.removed, ended.file.rows.duplicate) == (40, 0, 120)
        snapshot = await world.snapshot()
        assert counted(snapshot.labels.counts) == {"0": 80, "1": 80} and not snapshot.quarantine_reasons
        assert next(column.normalised for column in snapshot.columns if column.name == "label") >= 120
        assert list(snapshot.labels.warnings) == [
            "2 labels that snapshot 1 does not have: '0' × 80, '1' × 80",
            "2 labels of snapshot 1 are gone: '0.0' × 60, '1.0' × 60",
            "2 labels that look like one: '0' × 80, and in snapshot 1 '0.0' × 60",
            "2 labels that look like one: '1' × 80, and in snapshot 1 '1.0' × 60",
        ]
        after = await world.splits()
        assert {text: after[text] for text in splits} == splits, "a row moved"


async def test_a_replacement_of_a_snapshot_of_before_has_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World().running() as world:
        await of_an_earlier_version(world, monkeypatch, file(120, lambda n: ("0.0", "1.0")[n % 2]))
        name, data = spellings()["integers"]
        ended = await world.do(data, file_name=name)
        assert (ended.changes.added, ended.changes.removed) == (0, 0)
