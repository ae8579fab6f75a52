"""`millstream datasets` on fake services: the calls, the tables and the JSON."""

import json
from pathlib import Path

import pytest

from millstream.cli.datasets import describe
from millstream.dataset.v1 import dataset_service_pb2 as dataset
from millstream.dataset.v1.dataset_pb2 import RowCounts, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.registry.v1 import registry_service_pb2 as registry
from millstream.registry.v1.model_pb2 import Model
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import IMPORT, Fakes

FILE = [
    "the file: 6 of 9 rows kept, 1 duplicate, 2 quarantined",
    "quarantined, no JSON: 2",
    "labels: 4 trimmed of invisible edges",
    "labels: 3 decimals read as whole numbers (1.0 is 1)",
    "dialect: comma, doubled quotes",
    "see the quarantined rows: `millstream datasets rows words --number 4 --split quarantine`",
    "see the snapshot: `millstream datasets show words --number 4`",
]
LABELS = [
    "labels of the 6 kept rows, in column label: 2",
    "label good: 5 train, 0 validation, 0 test",
    "label bad: 0 train, 0 validation, 1 test",
    "warning: 1 label of test that train does not have",
]


NEXT = "train toy on it: `millstream train toy --watch`"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a"}\n')
    return path


def test_an_import_uploads_the_file_with_its_spec(cli: Command, fakes: Fakes, file: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text("cleaning: {strip_html: true}\n")
    words = ("--recipe", "toy_words", "--spec", str(tmp_path / "spec.yaml"), "--request-id", "import-1")
    shown = cli("datasets", "import", str(file), "-d", "words", *words)
    again = f"millstream datasets import {file} -d words --request-id import-1 --watch"
    assert shown.stdout.splitlines() == [
        "import import-1 pending, 0 rows read",
        f"see how it ends, and what is quarantined: `{again}`",
    ]
    header = fakes.last(dataset.ImportHeader)
    assert (header.dataset, header.file_name, header.request_id) == ("words", "rows.jsonl", "import-1")
    assert (header.spec.recipe, header.spec.cleaning.strip_html) == ("toy_words", True)
    assert fakes.uploaded == file.read_bytes()


def test_a_watched_import_shows_each_change(cli: Command, file: Path) -> None:
    lines = cli("datasets", "import", str(file), "-d", "words", "--watch").stdout.splitlines()
    assert lines == [
        "import import-1 running, 9 rows read → snapshot 4",
        "import import-1 succeeded, 9 rows read → snapshot 4",
        *FILE,
        *LABELS,
        NEXT,
    ]
    shown = cli("datasets", "import", str(file), "-d", "words", "--watch", "-o", "json")
    documents = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [document["state"] for document in documents] == ["STATE_RUNNING", "STATE_SUCCEEDED"]
    found = documents[-1]["file"]
    assert (found["rows"]["quarantined"], found["quarantine_reasons"]) == ("2", {"no JSON": "2"})
    assert (found["trimmed_labels"], found["normalised_labels"]) == ("4", "3")
    assert shown.stderr.splitlines() == [*FILE, *LABELS]


def test_an_import_that_has_ended_says_so_without_watching(cli: Command, fakes: Fakes, file: Path) -> None:
    fakes.recorded = IMPORT
    lines = cli("datasets", "import", str(file), "-d", "words", "--request-id", "import-1").stdout.splitlines()
    assert lines == ["import import-1 succeeded, 9 rows read → snapshot 4", *FILE, *LABELS, NEXT]


def test_a_refused_import_is_exit_code_1_with_its_reason(cli: Command, fakes: Fakes, file: Path) -> None:
    fakes.import_states = [Import.STATE_REFUSED]
    refused = cli("datasets", "import", str(file), "-d", "words", "--watch", code=1)
    assert refused.stderr == "the import was refused: no row is valid\n"


def test_an_import_says_how_a_model_is_declared_where_none_trains_on_it(cli: Command, fakes: Fakes, file: Path) -> None:
    fakes.answers[registry.ListModelsResponse] = registry.ListModelsResponse()
    *_, last = cli("datasets", "import", str(file), "-d", "words", "--watch").stdout.splitlines()
    assert last == "declare a model that trains on it, by a name of its own: `millstream apply MODEL -d words`"
    automatic = Model(name="toy")
    automatic.spec.dataset, automatic.spec.training.automatic = "words", True
    fakes.answers[registry.ListModelsResponse] = registry.ListModelsResponse(models=[automatic])
    *_, last = cli("datasets", "import", str(file), "-d", "words", "--watch").stdout.splitlines()
    assert last == "toy trains on it by itself: `millstream runs list --model toy`"


def test_append_and_replace_together_are_wrong_usage(cli: Command, fakes: Fakes, file: Path) -> None:
    refused = cli("datasets", "import", str(file), "-d", "words", "--append", "--replace", code=2)
    assert "leave one of the two out" in " ".join(refused.stderr.replace("│", " ").split())
    assert not fakes.requests


def test_datasets_are_listed(cli: Command) -> None:
    assert cli("datasets", "list").stdout == "dataset\trecipe\tsnapshots\nwords\ttoy_words\t4\n"
    (found,) = json.loads(cli("datasets", "list", "-o", "json").stdout)
    assert (found["name"], found["spec"]["recipe"], found["newest_number"]) == ("words", "toy_words", "4")


def test_a_snapshot_is_described(cli: Command, fakes: Fakes) -> None:
    assert cli("datasets", "show", "words", "--number", "4").stdout.splitlines() == [
        "words snapshot 4 (snap-4) of 2026-09-21 14:13:20",
        "from rows.jsonl, 123 bytes (dialect: comma, doubled quotes)",
        "9 rows read: 6 kept, 1 duplicate, 2 quarantined",
        "splits: test 1, train 5",
        "quarantined, no JSON: 2",
        "columns of the 6 kept rows:",
        "column id: 6 present, 0 empty, 1,000 or more distinct (not kept)",
        "column label: 6 present, 0 empty, 2 distinct, 3 decimals read as whole numbers",
        "column text: 6 present, 0 empty, 6 distinct, 2 of the file trimmed of invisible edges",
        *LABELS,
    ]
    asked = fakes.last(dataset.GetSnapshotRequest)
    assert (asked.dataset, asked.number) == ("words", 4)
    document = json.loads(cli("datasets", "show", "words", "-o", "json").stdout)
    assert (document["rows"]["kept"], document["labels"]["counts"][1]["test"]) == ("6", "1")


def test_a_snapshot_of_an_append_tells_the_file_from_what_it_carried_over() -> None:
    snapshot = Snapshot(dataset="words", number=2)
    snapshot.rows.MergeFrom(RowCounts(read=700, kept=698, quarantined=2, carried=400))
    line = next(line for line in describe(snapshot).splitlines() if "rows read" in line)
    assert line == (
        "300 rows read: 298 kept, 0 duplicate, 2 quarantined; with 400 rows of the snapshot before 698 rows"
    )


def test_snapshots_are_listed(cli: Command) -> None:
    assert cli("datasets", "snapshots", "words").stdout.splitlines() == [
        "number\tsnapshot\tkept\tfile\ttime",
        "4\tsnap-4\t6\trows.jsonl\t2026-09-21 14:13:20",
    ]
    (found,) = json.loads(cli("datasets", "snapshots", "words", "-o", "json").stdout)
    assert (found["number"], found["snapshot_id"]) == ("4", "snap-4")


def test_rows_are_json_lines_up_to_the_limit(cli: Command, fakes: Fakes) -> None:
    shown = cli("datasets", "rows", "words", "--split", "test", "--limit", "1").stdout
    assert "చాలా" in shown
    assert [json.loads(line) for line in shown.splitlines()] == [
        {"id": 9007199254740993, "text": "చాలా", "label": "good"}
    ]
    assert fakes.last(dataset.ListRowsRequest).split == "test"
    assert len(cli("datasets", "rows", "words", "--limit", "0").stdout.splitlines()) == 2


def test_a_row_that_is_too_long_is_shown_by_its_beginning(cli: Command) -> None:
    last = cli("datasets", "rows", "words", "--limit", "0", "-o", "json").stdout.splitlines()[-1]
    assert json.loads(last) == {"cut_row": '{"label": "b', "size_bytes": 9_000_000}


def test_rows_of_a_dataprep_that_sends_no_texts_are_read(cli: Command, fakes: Fakes) -> None:
    fakes.texts = []
    shown = cli("datasets", "rows", "words").stdout.splitlines()
    assert [json.loads(line) for line in shown] == [
        {"text": "చాలా", "label": "good"},
        {"text": "b", "label": "bad"},
    ]
