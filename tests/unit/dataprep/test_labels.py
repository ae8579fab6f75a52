"""What an import says of its labels, and the files that it refuses because of them."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from millstream.dataset.v1.dataset_pb2 import DatasetSpec, LabelCount, LabelReport, Snapshot, SplitSpec
from millstream.dataset.v1.import_pb2 import Import
from recipekit.spec import Spec
from services.dataprep.pipeline import labels
from services.dataprep.pipeline.labels import LONGEST_SHOWN, Labels, compared
from services.dataprep.pipeline.read import Refused
from tests.recipes.toy_words.spec import SPEC
from tests.unit.dataprep.test_rows import made
from tests.worlds.dataprep import World, lines

FOLDS = DatasetSpec(recipe="toy_words", split=SplitSpec(column="fold"))


def file(count: int, label: Callable[[int], str]) -> list[dict[str, Any]]:
    return [{"text": f"music scene {number}", "label": label(number)} for number in range(count)]


def counted(found: Sequence[LabelCount]) -> dict[str, int]:
    """Rows by label."""
    return {one.label: one.train + one.validation + one.test for one in found}


async def reports(*files: list[dict[str, Any]], spec: DatasetSpec | None = None) -> list[LabelReport]:
    """The report of each of some imports, each replacing the one before."""
    found = []
    async with World().running() as world:
        for rows in files:
            ended = await world.do(lines(rows), **({"spec": spec} if spec else {}))
            assert ended.state == Import.STATE_SUCCEEDED, ended.refusal
            found.append((await world.snapshot()).labels)
    return found


async def test_a_snapshot_states_its_labels_by_split_the_most_frequent_first() -> None:
    folds = ["train", "train", "validation", "train", "test", "train"]
    rows = [{**row, "fold": fold} for row, fold in zip(file(6, lambda n: "aab"[n % 3]), folds, strict=True)]
    (report,) = await reports(rows, spec=FOLDS)
    assert (report.column, report.distinct, report.distinct_stopped, report.compared_with) == ("label", 2, False, 0)
    assert list(report.counts) == [
        LabelCount(label="a", train=3, test=1),
        LabelCount(label="b", train=1, validation=1),
    ]
    assert not report.warnings


async def test_duplicates_and_quarantined_rows_are_not_counted() -> None:
    rows = file(100, lambda n: "ab"[n % 2])
    (report,) = await reports([*rows, rows[0], {**rows[1], "label": "c"}])
    assert counted(report.counts) == {"a": 50, "b": 50}


async def test_an_append_counts_the_labels_of_all_rows() -> None:
    async with World().running() as world:
        await world.do(lines(file(100, lambda n: "ab"[n % 2])))
        more = [{"text": f"another {number}", "label": "c"} for number in range(30)]
        await world.do(lines(more), spec=None, mode=Import.MODE_APPEND)
        report = (await world.snapshot()).labels
        assert counted(report.counts) == {"a": 50, "b": 50, "c": 30}
        assert counted(report.new_labels) == {"c": 30} and not report.lost_labels


async def test_new_and_lost_labels_are_named_with_their_rows() -> None:
    first, second, third = await reports(
        file(100, lambda n: "01"[n % 2]),
        file(120, lambda n: ("no", "yes")[n % 2]),
        file(200, lambda n: ("no", "yes")[n % 2]),
    )
    assert not first.new_labels and not first.compared_with
    assert counted(second.new_labels) == {"no": 60, "yes": 60}
    assert counted(second.lost_labels) == {"0": 50, "1": 50}
    assert list(second.warnings) == [
        "2 labels that snapshot 1 does not have: 'no' × 60, 'yes' × 60",
        "2 labels of snapshot 1 are gone: '0' × 50, '1' × 50",
    ]
    assert (second.compared_with, third.compared_with) == (1, 2)
    assert not third.new_labels and not third.warnings


# --- labels that look like one

SHOUTED = file(120, lambda n: ("Good", "Bad")[n % 2])
PLAIN_WORDS = file(120, lambda n: ("good", "bad")[n % 2])


async def test_labels_that_look_like_those_of_the_replaced_snapshot_are_named() -> None:
    _, report = await reports(SHOUTED, PLAIN_WORDS)
    assert list(report.warnings)[2:] == [
        "2 labels that look like one: 'bad' × 60, and in snapshot 1 'Bad' × 60",
        "2 labels that look like one: 'good' × 60, and in snapshot 1 'Good' × 60",
    ]


async def test_labels_that_look_like_those_of_the_rows_before_are_named_with_their_quarantine() -> None:
    more = [{"text": f"another {number}", "label": "good"} for number in range(10)]
    async with World().running() as world:
        await world.do(lines(SHOUTED))
        ended = await world.do(lines([*PLAIN_WORDS, *more]), mode=Import.MODE_APPEND)
        assert (ended.file.rows.quarantined, ended.file.rows.kept) == (120, 10)
        found = list((await world.snapshot()).labels.warnings)
        assert found[1:] == [
            "2 labels that look like one: 'Good' × 60, 'good' × 10",
            "120 rows are in quarantine because their label is not that of an earlier row, but they look like one: "
            "'good' for 'Good' × 60, 'bad' for 'Bad' × 60. Write each label in one way",
        ]
        notes = {row["note"] for row in await world.rows("quarantine")}
        assert "this row has the label 'good', an earlier row with the same key 'Good'" in notes and len(notes) == 2


async def test_a_refused_append_names_both_spellings() -> None:
    async with World().running() as world:
        await world.do(lines(SHOUTED))
        ended = await world.do(lines(PLAIN_WORDS), mode=Import.MODE_APPEND)
        assert ended.state == Import.STATE_REFUSED
        assert "'good' for 'Good' × 60, 'bad' for 'Bad' × 60" in ended.refusal


def test_contradicting_labels_are_counted_in_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MOST_PAIRS", 3)
    counter = Labels("label")
    counter.add("a", "train", b"key")
    notes = {counter.contradict(f"label {number}", b"key") for number in range(10)}
    assert len(notes) == 10 and len(counter._conflicts) == 3
    assert "'b', an earlier row with the same key another" in counter.contradict("b", b"a key that is not counted")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Good", "good"), ("10", "1e1"), ("a\u200bb", "ab"), ("a\ufe0fb", "ab"), ("-0", "0.00"), ("007", "7.0")],
)
async def test_labels_that_look_like_one_are_named(one: str, other: str) -> None:
    (report,) = await reports(file(120, lambda n: (one, other)[n % 2]))
    (warning,) = report.warnings
    assert warning.startswith("2 labels that look like one:")
    assert not {"\u200b", "\ufe0f"} & set(warning), "a reader sees what differs"


@pytest.mark.parametrize(
    ("one", "other"),
    [("1_0", "10"), ("1", "true"), ("0.1", "0.10000000000000000001"), ("very good", "verygood"), ("nan", "na")],
)
async def test_labels_that_differ_for_a_reader_are_not(one: str, other: str) -> None:
    (report,) = await reports(file(120, lambda n: (one, other)[n % 2]))
    assert not report.warnings


async def test_a_label_that_training_never_sees_is_named() -> None:
    rows = file(90, lambda n: "ab"[n % 2])
    found = [{**row, "fold": ("train", "validation", "test")[n % 3]} for n, row in enumerate(rows)]
    odd = [{"text": "odd", "label": "c", "fold": "test"}, {"text": "odder", "label": "d", "fold": "validation"}]
    (report,) = await reports([*found, *odd], spec=FOLDS)
    assert list(report.warnings) == [
        "2 labels of validation and test that train does not have, so no model learns it: 'c' × 1, 'd' × 1"
    ]


# --- invisible characters at the edges

INVISIBLE = [
    "\u200b",
    "\ufeff",
    "\u2060",
    "\u00ad",
    "\u200e",
    "\u202a",
    "\u2066",
    "\u00a0",
    " ",
    "\t",
    "\u200d",
    "\u3164",
]


@pytest.mark.parametrize("keep_whitespace", [False, True])
async def test_invisible_edges_of_labels_and_texts_are_taken_off_and_counted(keep_whitespace: bool) -> None:
    rng = random.Random(7)
    plain = file(120, lambda n: ("positive", "negative")[n % 2])
    spoiled = [
        {
            name: f"{rng.choice(INVISIBLE)}{value}{rng.choice(INVISIBLE)}{rng.choice(INVISIBLE)}"
            for name, value in row.items()
        }
        for row in plain
    ]
    spec = DatasetSpec(recipe="toy_words")
    spec.cleaning.keep_whitespace = keep_whitespace
    async with World().running() as world:
        await world.do(lines(plain), spec=spec, dataset="plain")
        await world.do(lines(spoiled), spec=spec)
        snapshot, expected = await world.snapshot(), await world.snapshot(dataset="plain")
        assert snapshot.snapshot_id == expected.snapshot_id
        assert counted(snapshot.labels.counts) == {"positive": 60, "negative": 60}
        assert {column.name: column.trimmed for column in snapshot.columns} == {"label": 120, "text": 120}
        assert {column.name: column.trimmed for column in expected.columns} == {"label": 0, "text": 0}


@pytest.mark.parametrize(
    "text",
    [
        "\u0d28\u0d4d\u200d",  # a Malayalam chillu ends with virama and joiner
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England ends with tags
        "\u2764\ufe0f",  # a variation selector
        "\u0600\u0661",  # an Arabic number sign comes first
        "\u0c15\u0c4d\u200c\u0c37",
        "a\u200bb",
    ],
)
async def test_what_shapes_a_text_stays(text: str) -> None:
    async with World().running() as world:
        rows = file(100, lambda n: "ab"[n % 2])
        await world.do(lines([*rows, {"text": f"\u200b{text}\u200b", "label": "a"}]))
        assert text in await world.splits()


async def test_a_csv_whose_header_begins_with_two_byte_order_marks_is_read() -> None:
    data = "\ufeff\ufefftext,label\u200b\n" + "".join(f"row {n},{'ab'[n % 2]}\n" for n in range(100))
    async with World().running() as world:
        assert (await world.do(data.encode(), file_name="a.csv")).state == Import.STATE_SUCCEEDED


# --- labels that no classifier can learn

SINGLE = "only one label: 'positive' × 300. A classifier needs two or more: is `label` the label column?"
ALL = "317 labels in 317 rows: is `label` the label column? A classifier learns from rows that share a label"


@pytest.mark.parametrize(
    ("rows", "text"), [(file(300, lambda _: "positive"), SINGLE), (file(317, lambda n: f"id-{n}"), ALL)]
)
async def test_labels_that_no_classifier_can_learn_are_refused(rows: list[dict[str, Any]], text: str) -> None:
    async with World().running() as world:
        ended = await world.do(lines(rows))
        assert (ended.state, ended.refusal) == (Import.STATE_REFUSED, text)
        # The name of the dataset stays free for a corrected file.
        assert (await world.do(lines(file(300, lambda n: "ab"[n % 2])))).state == Import.STATE_SUCCEEDED


class Scored(BaseModel):
    text: str
    label: float


def test_a_recipe_that_does_not_classify_may_have_any_values_to_predict() -> None:
    recipe = Spec(**{**vars(SPEC), "row": Scored, "tasks": frozenset()})
    result, _ = made(lines({"text": f"row {n}", "label": n / 7} for n in range(200)), recipe=recipe)
    assert result.labels and result.labels.distinct == 200


def test_the_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "MOST_COUNTED", 30)
    monkeypatch.setattr(labels, "MOST_LISTED", 20)
    counter = Labels("label")
    for number in range(100):
        counter.add(f"label {number}", "train")
    with pytest.raises(Refused, match="more than 30 labels in 100 rows"):
        counter.check()
    counter.add("label 3", "test")
    counter.check()
    report = counter.report()
    assert (report.distinct, report.distinct_stopped, len(report.counts)) == (30, True, 20)
    before = Snapshot(number=3, labels=report)
    assert not compared(report, before).compared_with, "what was not listed cannot be compared"


def test_a_long_label_is_cut_and_stays_itself() -> None:
    counter = Labels("label")
    for end in ("a", "b", "b"):
        counter.add("x" * 5000 + end, "train")
    report = counter.report()
    assert sorted(counted(report.counts).values()) == [1, 2]
    assert all(len(one.label) == LONGEST_SHOWN and "…" in one.label for one in report.counts)


def test_labels_that_are_no_texts_are_shown_as_json() -> None:
    counter = Labels("label")
    for label in (1, True, None, 0.5, ["a"]):
        counter.add(label, "train")
    assert counted(counter.report().counts) == {"1": 1, "true": 1, "0.5": 1, '["a"]': 1}
