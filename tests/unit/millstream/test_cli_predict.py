"""`millstream predict | served` on fake services: the calls, the texts and the JSON."""

import json
from pathlib import Path

import pytest

from millstream.cli import predict
from millstream.inference.v1 import inference_service_pb2 as inference
from tests.unit.millstream.conftest import Command
from tests.worlds.fake_services import Fakes

ANSWERED = "answered by toy version 3 as champion, python float64"


def test_predict_sends_texts_and_rows_in_order(cli: Command, fakes: Fakes) -> None:
    shown = cli("predict", "toy", "hello", "--alias", "shadow", "--file", "-", stdin='{"text": "hi", "n": 1}\n').stdout
    *answers, last = shown.splitlines()
    assert [json.loads(line) for line in answers] == [{"label": "good", "length": 5}, {"label": "good", "length": 2}]
    assert last == ANSWERED
    asked = fakes.last(inference.PredictRequest)
    assert ([row["text"] for row in asked.rows], asked.rows[1]["n"], asked.alias) == (["hello", "hi"], 1, "shadow")


def test_a_long_file_is_sent_in_parts_and_answered_as_one(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "ROWS", 2)
    answer = json.loads(cli("predict", "toy", *"abcde", "-o", "json").stdout)
    assert len(answer["predictions"]) == 5 and answer["served"]["version"] == "3"
    assert sum(isinstance(request, inference.PredictRequest) for request in fakes.requests) == 3
    assert answer["timing"] == {"prepare": "1.800s", "queue": "0s", "infer": "3.000000021s"}, "of all three, added"


def test_parts_answered_by_two_versions_are_an_error(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "ROWS", 1)
    fakes.version_step = 1
    failed = cli("predict", "toy", "a", "b", code=1)
    assert failed.stderr == "champion of toy moved to version 4 meanwhile: try again\n"


@pytest.mark.parametrize(("task", "shown"), [("classify", "good 0.7500\thello"), ("embed", '{"values": [0.5, 0.25]}')])
def test_tasks_on_texts(task: str, shown: str, cli: Command) -> None:
    answer, last = cli("predict", "toy", "hello", "--task", task).stdout.splitlines()
    assert (answer, last) == (shown, ANSWERED)


def test_columns_that_the_model_does_not_read_come_back_beside_the_answers(
    cli: Command, fakes: Fakes, tmp_path: Path
) -> None:
    (tmp_path / "rows.csv").write_text("id,text,label,n\n7,hello,good,1\n8,hi,,2\n")
    words = ("predict", "toy", "--file", str(tmp_path / "rows.csv"))
    first, second, last = cli(*words).stdout.splitlines()
    assert first == 'id=7\tlabel=good\t{"label": "good", "length": 5.0}'
    assert second.startswith("id=8\t{") and last == ANSWERED
    asked = fakes.last(inference.PredictRequest)
    assert [dict(row) for row in asked.rows] == [{"text": "hello", "n": "1"}, {"text": "hi", "n": "2"}]
    document = json.loads(cli(*words, "-o", "json").stdout)
    assert document["rows"] == [{"id": "7", "label": "good"}, {"id": "8"}] and len(document["predictions"]) == 2
    assert cli(*words, "--task", "classify").stdout.splitlines()[0] == "id=7\tlabel=good\tn=1\tgood 0.7500\thello"


def test_similar_takes_one_text(cli: Command, fakes: Fakes) -> None:
    words = ("--task", "similar", "--limit", "1", "--label", "good")
    answer = cli("predict", "toy", "hello", *words).stdout.splitlines()[0]
    near = {"similarity": 0.5, "row": {"id": 9007199254740993}}
    assert json.loads(answer) == near
    assert json.loads(cli("predict", "toy", "hello", *words, "-o", "json").stdout)["neighbours"] == [near]
    asked = fakes.last(inference.SimilarRequest)
    assert (asked.text, asked.limit, asked.label) == ("hello", 1, "good")
    cli("predict", "toy", "a", "b", *words, code=2)


def test_rank_takes_candidates_from_a_file(cli: Command, fakes: Fakes, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text('{"id": "x", "texts": ["a", "b"]}\n{"id": "y", "texts": ["c"]}\n')
    shown = cli("predict", "toy", "--task", "rank", "--label", "good", "--file", str(tmp_path / "rows")).stdout
    assert [json.loads(line)["id"] for line in shown.splitlines()[:2]] == ["x", "y"]
    asked = fakes.last(inference.RankRequest)
    assert (list(asked.candidates[0].texts), asked.label) == (["a", "b"], "good")
    wrong = cli("predict", "toy", "hello", "--task", "rank", code=2)
    assert "a row for rank needs id and texts" in " ".join(wrong.stderr.split())


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        ("classify", '{"text": null}', "texts[0] is None (NoneType): a text is a str"),
        ("embed", '{"text": 5}', "texts[0] is 5 (int): a text is a str"),
        ("rank", '{"id": "x", "texts": "ab"}', "candidates['x'] is one str: pass a list, [text]"),
    ],
)
def test_a_row_whose_text_is_none_is_refused_and_not_sent(
    task: str, row: str, said: str, cli: Command, fakes: Fakes
) -> None:
    failed = cli("predict", "toy", "--task", task, "--label", "good", "--file", "-", stdin=row, code=1)
    assert said in " ".join(failed.stderr.split()) and fakes.requests == []


def test_served_versions_are_listed(cli: Command, fakes: Fakes) -> None:
    assert cli("served").stdout.splitlines() == [
        "model\talias\thold\tversion\ttasks\tbackend\tdataset\trun",
        "toy\tchampion\ton hold\t3\tclassify,embed\tpython float64\twords 4\trun-1",
    ]
    assert cli("served", "toy", "--wait", "3").stderr == "ask it: `millstream predict toy 'TEXT'`\n"
    (found,) = json.loads(cli("served", "toy", "--wait", "3", "-o", "json").stdout)
    assert (found["served"]["version"], found["lineage"]["recipe"]) == ("3", "toy_words")
    assert fakes.last(inference.ListServedModelsRequest).model == "toy"


def test_what_is_served_is_listed_without_the_registry(
    cli: Command, fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fakes, "entry", None)
    assert cli("served").stdout.splitlines()[1].split("\t")[:4] == ["toy", "champion", "-", "3"]
    monkeypatch.setenv("MILLSTREAM_REGISTRY", "127.0.0.1:1")
    assert cli("served").stdout.splitlines()[1].split("\t")[:4] == ["toy", "champion", "unknown", "3"]


def test_a_version_that_does_not_come_is_a_timeout(cli: Command) -> None:
    late = cli("served", "toy", "--wait", "4", "--timeout", "0.01", code=1)
    assert "champion of toy does not serve version 4 (there is no version 4 of toy" in late.stderr
    cli("served", "--wait", "4", code=2)
