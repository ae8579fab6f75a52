"""Files that users write: errors name the file and the place."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from millstream.cli.command import Failed
from millstream.cli.files import read_mapping, read_rows, read_spec
from millstream.dataset.v1.dataset_pb2 import DatasetSpec
from millstream.registry.v1.model_pb2 import ModelSpec
from tests.fuzz.files import BOMB

HOUSE = Path(__file__).resolve().parents[2]

WHOLE = """
model: reviews
recipe: toy_words
preset: toy
config: {steps: 10, learning_rate: 0.5}
dataset: toy-words
gate:
  - {metric: accuracy, at_least: 0.8, over_champion: -0.01}
promotion: {automatic: true}
training:
  automatic: true
  time_limit: 1800s
  minimum_interval: 60s
  resources: {gpus: 1, gpu_product: NVIDIA-H100-80GB-HBM3}
serving: {aliases: [champion, shadow]}
"""


def write(folder: Path, text: str) -> Path:
    (folder / "model.yaml").write_text(text)
    return folder / "model.yaml"


def test_a_whole_spec_is_read(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, WHOLE), ModelSpec)
    assert spec.promotion.automatic and spec.training.automatic
    assert (spec.training.time_limit.seconds, spec.training.minimum_interval.seconds) == (1800, 60)
    assert (spec.gate[0].at_least, spec.gate[0].HasField("at_most")) == (0.8, False)
    assert spec.training.resources.gpus == 1 and list(spec.serving.aliases) == ["champion", "shadow"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("model: x\npromotoin: {automatic: true}", 'no field named "promotoin"'),
        ("model: x\ntraining: {automatic: true, limit: 1s}", 'no field named "limit"'),
        ("model: x\npromotion: AUTOMATIC", "promotion"),
        ("model: x\ntraining: {time_limit: soon}", "soon"),
        ("model: x\nmodel: y", "'model' appears twice"),
        ("model: x\ntraining: {automatic: true, automatic: false}", "'automatic' appears twice"),
        ("- model: x", "fields of ModelSpec"),
        ("model: [", "no YAML"),
        ("", "fields of ModelSpec, such as `model: …`"),
        ("[" * 3000, "nested too deeply"),
        (BOMB, "stands for more than 20,000 values"),
        ("model: x\nconfig: {epochs: .nan}", "ModelSpec.config.epochs: nan (float) is no number"),
        ("model: x\nconfig: {epochs: 1" + "0" * 400 + "}", "ModelSpec.config.epochs: a number of 1,329 bits"),
        ("model: 2024-13-77", "no YAML"),
        ("model: 2024-12-17", "ModelSpec.model: datetime.date(2024, 12, 17) (date) is no text"),
        ("model: x\n" + "# long\n" * 200_000, "more than 1,048,576 bytes"),
    ],
    ids=lambda text: text[:40],
)
def test_an_error_names_its_file(text: str, error: str, tmp_path: Path) -> None:
    with pytest.raises(Failed) as failed:
        read_spec(write(tmp_path, text), ModelSpec)
    assert str(failed.value).startswith(f"{tmp_path}/model.yaml: ") and error in str(failed.value)


@pytest.mark.parametrize(("kind", "example"), [(ModelSpec, "model"), (DatasetSpec, "recipe")])
def test_a_file_that_holds_no_fields_names_one_that_it_may_hold(kind: Any, example: str, tmp_path: Path) -> None:
    with pytest.raises(Failed, match=f"fields of {kind.DESCRIPTOR.name}, such as `{example}: …`"):
        read_spec(write(tmp_path, "- no mapping"), kind)


@pytest.mark.parametrize("path", sorted(HOUSE.glob("recipes/*/model.yaml")), ids=lambda path: path.parent.name)
def test_the_recipes_own_specs_are_whole(path: Path) -> None:
    spec = read_spec(path, ModelSpec)
    assert spec.recipe == path.parent.name
    assert spec.model and spec.dataset and spec.promotion.automatic and spec.training.automatic


def test_a_config_keeps_whole_numbers_whole(tmp_path: Path) -> None:
    config = read_mapping(write(tmp_path, "steps: 10\nlearning_rate: 0.5\nwords: [a, b]"))
    assert config == {"steps": 10, "learning_rate": 0.5, "words": ["a", "b"]}


def test_rows_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "చాలా\u2028బాగుంది"}\n\n{"text": "b", "n": 1}\n', encoding="utf-8")
    assert read_rows(path) == [{"text": "చాలా\u2028బాగుంది"}, {"text": "b", "n": 1}]
    path.write_text('{"text": "a"}\n{"text"\n')
    with pytest.raises(Failed, match=r"rows\.jsonl line 2: this is no JSON"):
        read_rows(path)
    path.write_text('["a"]\n')
    with pytest.raises(Failed, match="a row is an object"):
        read_rows(path)
    path.write_text("[" * 100_000)
    with pytest.raises(Failed, match="line 1: this is no JSON"):
        read_rows(path)


CSV = b'text,label,id\n"a, b",,7\nc,good,8\n'
OF_CSV = [{"text": "a, b", "id": "7"}, {"text": "c", "label": "good", "id": "8"}]


@pytest.mark.parametrize(
    ("name", "data", "rows"),
    [
        ("rows.csv", CSV, OF_CSV),
        ("rows.csv.gz", gzip.compress(CSV), OF_CSV),
        ("rows.jsonl", gzip.compress(b'{"text": "a"}\n'), [{"text": "a"}]),
        ("rows", b"\xef\xbb\xbf\xef\xbb\xbf" + CSV, OF_CSV),
        ("rows.jsonl", b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}', [{"text": "a"}, {"text": "b"}]),
        ("rows", b'\n {"text": "a"}\n', [{"text": "a"}]),
        ("rows", b"", []),
    ],
)
def test_rows_are_read_as_an_import_reads_them(
    name: str, data: bytes, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_rows(tmp_path / name) == rows


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("rows.csv", "text\na\ncaf\u00e9".encode("latin-1"), "line 3 is not UTF-8 (byte 0xe9): save the file as UTF-8"),
        ("rows.jsonl", '{"text": "a"}'.encode("utf-16"), "is UTF-16: save it as UTF-8"),
        ("rows.csv.gz", gzip.compress(CSV)[:30], "the gzip cannot be read"),
        ("rows.csv", b"text,label\na,b,c\n", "line 2: 3 cells, but the header names 2 columns"),
        ("rows.csv", b'text,label\n"a,b\n', "this is no CSV"),
    ],
)
def test_rows_that_cannot_be_read_name_the_file_and_the_place(
    name: str, data: bytes, error: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(Failed) as failed:
        read_rows(tmp_path / name)
    assert str(failed.value).startswith(f"{tmp_path}/{name}") and error in str(failed.value)
