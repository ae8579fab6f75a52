"""Every row is cleaned, and kept, dropped as a duplicate or quarantined, and counted as that."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from millstream.dataset.v1.dataset_pb2 import (
    FORMAT_CSV,
    FORMAT_JSON_LINES,
    Cleaning,
    DatasetSpec,
    Format,
    SplitSpec,
)
from recipekit.spec import Spec
from servicekit.blobs.parts import unpack_rows
from services.dataprep.pipeline.ingest import ImportProgress, Ingested, Job, ingest
from services.dataprep.pipeline.rules import SPLITS
from tests.recipes.toy_words.sample import rows as sample_rows
from tests.recipes.toy_words.spec import SPEC as TOY
from tests.worlds.dataprep import lines, zipped

SHARES = SplitSpec(validation_share=0.1, test_share=0.1)
Made = tuple[Ingested, dict[str, list[dict[str, Any]]]]


def made(
    data: bytes,
    *,
    file_format: Format.ValueType = FORMAT_JSON_LINES,
    spec: DatasetSpec | None = None,
    recipe: Spec | None = TOY,
) -> Made:
    """Ingest, and the rows of each part."""
    spec = spec or DatasetSpec(split=SHARES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        result = ingest(Job(path, file_format, spec, recipe, 1 << 26), Path(folder), ImportProgress())
        return result, {part.split: unpack_rows(part.path.read_bytes()) for part in result.parts}


def quarantined(bad: bytes, **more: Any) -> list[dict[str, Any]]:
    """The quarantine after some bytes that follow good rows (200 JSON lines, or 201 lines of CSV)."""
    rows = sample_rows()
    if more.get("file_format") == FORMAT_CSV:
        good = b"text,label\n" + b"".join(f"{row['text']},{row['label']}\n".encode() for row in rows)
    else:
        good = lines(rows)
    return made(good + bad, **more)[1].get("quarantine", [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "x"}', "label: missing"),
        (b'{"text": null, "label": "good"}', "text: missing"),
        (b'{"text": " \\t ", "label": "good"}', "text: too short"),
        (b'{"text": 5, "label": "good"}', "text: wrong type"),
        (b'{"text": "x", "label": ', "not JSON"),
        (b'{"text": "x", "label": NaN}', "NaN is no JSON: write null"),
        (b'{"text": "x", "label": "good", "list": [-Infinity]}', "-Infinity is no JSON: write null"),
        (b'{"text": "x", "label": "good", "price": {"least": 1e400}}', "a number is out of range"),
        (b'{"text": "x", "label": "good", "text\xe2\x80\x8b": 1}', "a key appears twice"),
        (b'{"text": "x", "label": "good", "a": ' + b"[" * 5 + b"-1e999" + b"]" * 5 + b"}", "a number is out of range"),
        (b'{"text": "x", "label": "a", "label": "b"}', "a key appears twice"),
        (b'["x", "good"]', "not a JSON object"),
        (b'{"text": "caf\xe9", "label": "good"}', "not UTF-8"),
        (b'{"text": "\\ud800", "label": "good"}', "broken Unicode"),
        (b'{"\\udfff": "x", "label": "good"}', "broken Unicode"),
        (b'{"text": ' + b"[" * 50 + b'"x"' + b"]" * 50 + b', "label": "good"}', "nested too deeply"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "' + b"x" * (5 << 20) + b'", "label": "good"}', "line too long"),
        (b'{"text": "the mill was bright and the wheel was kind", "label": 1' + b"0" * 5000 + b"}", "a number is too long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_bad_json_line_is_quarantined_with_its_reason(line: bytes, reason: str) -> None:
    (kept,) = quarantined(line + b"\n")
    assert (kept["line"], kept["reason"]) == (201, reason)
    assert kept["raw"][:40] == line.decode(errors="backslashreplace")[:40] and len(kept["raw"]) <= 10_000


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"only one cell\n", "too few cells"),
        (b"one,two,three\n", "too many cells"),
        (b"no label,\n", "label: missing"),
        (b",\n", "text: missing"),
        (b'"a"b,good\n', "broken quotes"),
    ],
)
def test_a_bad_csv_record_is_quarantined_with_its_reason(record: bytes, reason: str) -> None:
    after = b'"over\ntwo lines",good\nragged\n'
    first, second = quarantined(record + after, file_format=FORMAT_CSV)
    assert (first["line"], first["reason"], first["raw"]) == (202, reason, record.decode().rstrip("\n"))
    assert (second["line"], second["reason"]) == (205, "too few cells")


def test_a_row_whose_label_contradicts_an_earlier_one_is_quarantined() -> None:
    row = {"text": "one text", "label": "good"}
    result, parts = made(lines([*sample_rows(), row, row, {**row, "label": "bad"}, {**row, "text": " one  text "}]))
    assert (result.rows.read, result.rows.kept, result.rows.duplicate, result.rows.quarantined) == (204, 201, 2, 1)
    assert parts["quarantine"][0]["reason"] == "label: conflicts with an earlier row"
    assert result.quarantine_reasons == {"label: conflicts with an earlier row": 1}


def test_without_a_recipe_columns_stay_as_found() -> None:
    rows = [{"id": i, "tags": ["a", "b"], "deep": {"x": None}} for i in range(200)]
    result, parts = made(lines([*rows, rows[3], {}]), recipe=None)
    assert sorted((row for split in SPLITS for row in parts[split]), key=lambda row: row["id"]) == rows
    assert (result.rows.duplicate, parts["quarantine"][0]["reason"]) == (1, "no columns")
    assert {column.name: column.distinct for column in result.columns} == {"id": 200, "tags": 1, "deep": 1}


class Scored(BaseModel):
    model_config = ConfigDict(extra="allow")
    text: str
    score: float = Field(ge=0, le=5)
    note: str = "none"


def test_the_schema_reads_the_cells() -> None:
    recipe = Spec(**{**vars(TOY), "row": Scored, "label": None})
    data = (
        b"text,score,note,more\n" + b"".join(f"row {i},{i % 6},,x\n".encode() for i in range(200)) + b"a,six,,\nb,9,,\n"
    )
    result, parts = made(data, file_format=FORMAT_CSV, recipe=recipe)
    assert {"text": "row 4", "score": 4.0, "note": "none", "more": "x"} in [r for s in SPLITS for r in parts[s]]
    assert result.quarantine_reasons == {"score: wrong type": 1, "score: out of range": 1}
    assert all(column.kept for column in result.columns)


def test_a_column_of_the_rows_may_name_their_split() -> None:
    folds = ["train", "validation", "test"] * 20
    rows = [{**row, "fold": fold} for row, fold in zip(sample_rows(60), folds, strict=True)]
    spec = DatasetSpec(split=SplitSpec(column="fold"))
    for recipe in (TOY, None):
        result, parts = made(lines(rows), spec=spec, recipe=recipe)
        assert result.splits == {"train": 20, "validation": 20, "test": 20}
        assert parts["test"] == [{"text": row["text"], "label": row["label"]} for row in rows if row["fold"] == "test"]
        assert {column.name: column.kept for column in result.columns}["fold"] is False


def test_shares_are_met_and_a_changed_share_moves_few_rows() -> None:
    rows = [{"text": f"row {i}", "label": ("good", "bad")[i % 2]} for i in range(4000)]
    small = DatasetSpec(split=SHARES)
    large = DatasetSpec(split=SplitSpec(validation_share=0.1, test_share=0.2))
    result, before = made(lines(rows), spec=small)
    assert 330 < result.splits["test"] < 470 and 330 < result.splits["validation"] < 470
    _, after = made(lines(rows), spec=large)
    assert {row["text"] for row in before["test"]} < {row["text"] for row in after["test"]}


def test_lines_end_at_lf_alone() -> None:
    rows = [{"text": f"before\u2028after\x85{i}", "label": ("good", "bad")[i % 2]} for i in range(200)]
    result, _ = made(lines(rows), spec=DatasetSpec(cleaning=Cleaning(keep_whitespace=True), split=SHARES))
    assert (result.rows.read, result.rows.kept) == (200, 200)


def test_old_line_ends_are_read() -> None:
    data = b"text,label\r" + b"".join(f"{row['text']},{row['label']}\r".encode() for row in sample_rows())
    assert made(data, file_format=FORMAT_CSV)[0].rows.kept == 200


def test_an_entity_without_end_is_quarantined() -> None:
    line = json.dumps({"text": f"&#{'9' * 5000};", "label": "good"}).encode() + b"\n"
    spec = DatasetSpec(split=SHARES, cleaning=Cleaning(strip_html=True))
    assert quarantined(line, spec=spec)[0]["reason"] == "broken HTML"


# --- every row is accounted for

GOOD = [{"text": f"row {i}", "label": ("good", "bad")[i % 2]} for i in range(150)]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
row_lines = st.dictionaries(st.sampled_from(["text", "label", "more"]), values, max_size=3).map(
    lambda row: json.dumps(row).encode()
)
json_lines = (
    row_lines
    | st.sampled_from([json.dumps(row).encode() for row in GOOD[:5]])
    | values.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=30).map(lambda data: data.replace(b"\n", b"").replace(b"\x1f\x8b", b""))
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_lines, max_size=30), st.booleans(), st.booleans())
def test_every_json_line_is_kept_a_duplicate_or_quarantined(bad: list[bytes], recipe: bool, packed: bool) -> None:
    data = b"\n".join([*(json.dumps(row).encode() for row in GOOD), *bad])
    result, parts = made(zipped(data) if packed else data, recipe=TOY if recipe else None)
    assert result.rows.read == len(GOOD) + sum(1 for line in bad if line.strip())
    check(result, parts)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet='a,"\n\r é\u2028\x00', max_size=60))
def test_every_csv_record_is_kept_a_duplicate_or_quarantined(bad: str) -> None:
    data = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in GOOD) + bad
    result, parts = made(data.encode(), file_format=FORMAT_CSV)
    check(result, parts)
    assert result.rows.kept + result.rows.duplicate >= len(GOOD)


def check(result: Ingested, parts: dict[str, list[dict[str, Any]]]) -> None:
    rows = result.rows
    assert rows.read == rows.kept + rows.duplicate + rows.quarantined
    assert {split: len(parts.get(split, [])) for split in SPLITS} == dict(result.splits)
    assert sum(result.splits.values()) == rows.kept
    reasons = Counter(row["reason"] for row in parts.get("quarantine", []))
    assert reasons == result.quarantine_reasons and reasons.total() == rows.quarantined
    assert all(column.present + column.empty == rows.kept for column in result.columns)


@settings(max_examples=20, deadline=None)
@given(st.permutations(GOOD), st.integers(min_value=130, max_value=150))
def test_a_row_keeps_its_split_in_any_file_and_order(rows: list[dict[str, str]], count: int) -> None:
    _, before = made(lines(GOOD))
    _, after = made(lines(rows[:count]))
    where = {row["text"]: split for split in SPLITS for row in before[split]}
    assert all(where[row["text"]] == split for split in SPLITS for row in after[split])
