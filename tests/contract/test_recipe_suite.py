"""Every recipe that the catalog finds passes the same tests: a new recipe is tested because its folder exists.

Each is fitted once with its `toy` preset on its sample.jsonl; the tests share that artifact.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipekit.catalog import Catalog
from recipekit.predictor import Predictor, differences, load_artifact, predict, write_golden
from recipekit.run import Data, LocalRun, Progress, Stopped
from recipekit.spec import Row, Spec
from tests.worlds.waiting import FLOW

CATALOG = Catalog(("recipes", "tests.recipes"))
ROOT = Path(__file__).parents[2]
KINDS = {".safetensors", ".json", ".md", ".png", ".txt"}
TEST_SHARE = 10
"""Every tenth row of a sample is for testing, the one after it for validation."""


@dataclass(frozen=True)
class Fitted:
    name: str
    spec: Spec
    artifact: Path
    predictor: Predictor
    test: list[Row]
    reports: list[Progress]


class Interrupted(LocalRun):
    """A run that ends itself. Every training loop reads `stop_requested` after each step, which counts the steps.

    `kill_after`: SIGKILL after this many steps, once there is a checkpoint. `kill_in_save`: SIGKILL while one is written.
    `stop_after`: the training is asked to stop after this many steps.
    """

    def __init__(self, root: Path, kill_after: int = 0, kill_in_save: bool = False, stop_after: int = 0) -> None:
        self.reads = 0
        self.kill_after, self.kill_in_save, self.stop_after = kill_after, kill_in_save, stop_after
        super().__init__(root)

    @property
    def stop_requested(self) -> bool:
        self.reads += 1
        if self.kill_after and self.latest_checkpoint() and self.reads > self.kill_after:
            os.kill(os.getpid(), signal.SIGKILL)
        return bool(self.stop_after) and self.reads >= self.stop_after

    @stop_requested.setter
    def stop_requested(self, value: bool) -> None:
        """A local run is not asked to stop from outside here."""

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> None:
        def dies(folder: Path) -> None:
            write(folder)
            os.kill(os.getpid(), signal.SIGKILL)

        super().save_checkpoint(step, dies if self.kill_in_save else write)


@cache
def sample(name: str) -> tuple[Data, list[Row]]:
    """(train and validation with every table, test rows) of the recipe's own sample."""
    folder = CATALOG.folder(name)
    tables = {
        path.name.removeprefix("sample.").removesuffix(".jsonl"): _rows(path) for path in folder.glob("sample.*.jsonl")
    }
    rows = _rows(folder / "sample.jsonl")
    test, validation = rows[::TEST_SHARE], rows[1::TEST_SHARE]
    train = [row for i, row in enumerate(rows) if i % TEST_SHARE > 1]
    return Data(train=train, validation=validation, tables=tables), test


def _rows(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def fit(name: str, run: LocalRun) -> None:
    CATALOG.fit(name)(CATALOG.spec(name).configure("toy", {}), sample(name)[0], run)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module", params=CATALOG.names())
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fitted]:
    name = request.param
    reports: list[Progress] = []
    run = LocalRun(tmp_path_factory.mktemp(name), on_progress=reports.append)
    fit(name, run)
    spec = CATALOG.spec(name)
    yield Fitted(name, spec, run.artifact, CATALOG.load(name)(run.artifact), sample(name)[1], reports)


def test_the_folder_is_complete_and_its_model_can_be_applied(fitted: Fitted) -> None:
    folder = CATALOG.folder(fitted.name)
    needed = {"README.md", "spec.py", "train.py", "predict.py", "model.yaml", "sample.jsonl"}
    assert needed <= {path.name for path in folder.iterdir()}, "a recipe's folder lacks a file"
    model = yaml.safe_load((folder / "model.yaml").read_text())
    assert model["recipe"] == fitted.name
    fitted.spec.configure(model.get("preset", ""), model.get("config", {}))


def test_every_preset_is_a_valid_config(fitted: Fitted) -> None:
    assert {"default", "toy"} <= set(fitted.spec.presets)
    for preset in fitted.spec.presets:
        config = fitted.spec.configure(preset, {"seed": 7})
        again = fitted.spec.config.model_validate_json(config.model_dump_json())
        assert again == config, f"preset {preset} does not survive JSON"


def test_sample_rows_meet_the_row_schema_and_differ(fitted: Fitted) -> None:
    rows = _rows(CATALOG.folder(fitted.name) / "sample.jsonl")
    for row in rows:
        fitted.spec.row.model_validate(row)
    identities = {json.dumps([row[column] for column in fitted.spec.identity]) for row in rows}
    assert len(identities) == len(rows), "rows of the sample repeat"


def test_training_reports_its_progress_and_its_loss_is_never_missing(fitted: Fitted) -> None:
    assert fitted.reports, "no progress was reported"
    steps = [report.step for report in fitted.reports]
    assert steps == sorted(steps) and steps[-1] <= fitted.reports[-1].total_steps
    for report in fitted.reports:
        assert report.loss == report.loss and report.loss >= 0, f"loss {report.loss} at step {report.step}"
        assert report.learning_rate >= 0 and report.gradient_norm >= 0
    evaluated = [report for report in fitted.reports if report.metrics]
    assert evaluated, "no evaluation was reported"
    assert fitted.spec.primary.name in evaluated[-1].metrics


def test_a_runs_last_report_is_of_the_weights_that_it_keeps(fitted: Fitted) -> None:
    validation = sample(fitted.name)[0].validation
    measured = fitted.spec.measure(validation, predict(fitted.predictor, validation)).metrics
    last = [report.metrics for report in fitted.reports if report.metrics][-1]
    name = fitted.spec.primary.name
    assert last[name] == pytest.approx(measured[name], abs=fitted.spec.tolerance), "the metrics are of other weights"


def test_the_fitted_model_passes_its_own_gate(fitted: Fitted) -> None:
    data, test = sample(fitted.name)
    predictions = predict(fitted.predictor, test)
    measured = fitted.spec.measure(test, predictions)
    assert set(measured.metrics) == {metric.name for metric in fitted.spec.metrics}, "declared and measured differ"
    baseline = fitted.spec.measure(test, fitted.spec.baseline([*data.train, *data.validation], test)).metrics
    better = {metric.name: 1 if metric.higher_is_better else -1 for metric in fitted.spec.metrics}
    for rule in fitted.spec.gate:
        value = measured.metrics[rule.metric]
        assert rule.at_least is None or value >= rule.at_least, f"{rule.metric} {value} is below {rule.at_least}"
        assert rule.at_most is None or value <= rule.at_most, f"{rule.metric} {value} is above {rule.at_most}"
        gain = better[rule.metric] * (value - baseline[rule.metric])
        assert rule.over_baseline is None or gain >= rule.over_baseline, (
            f"{rule.metric} is {value}, {gain:+.4f} over the baseline's {baseline[rule.metric]}"
        )
    for table in measured.tables:
        assert all(len(row) == len(table.columns) for row in table.rows), f"table {table.title} is ragged"
        json.dumps(table.rows)


def test_the_same_seed_gives_the_same_artifact(fitted: Fitted, tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    fit(fitted.name, run)
    _assert_same(contents(fitted.artifact), contents(run.artifact), "a second training with the same seed")


def test_killed_twice_stopped_once_and_resumed_ends_in_the_same_bits(fitted: Fitted, tmp_path: Path) -> None:
    """SIGKILL between checkpoints, SIGKILL while a checkpoint is written, a request to stop, then to the end."""
    for how in ({"kill_after": 4}, {"kill_in_save": True}):
        child = subprocess.run(
            [sys.executable, "-m", "tests.contract.test_recipe_suite", fitted.name, str(tmp_path), json.dumps(how)],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=FLOW,
        )
        assert child.returncode == -signal.SIGKILL, f"{how} ended with {child.returncode}: {child.stderr[-3000:]}"
    assert not list((tmp_path / "artifact").iterdir()), "the kills came too late: there is an artifact already"
    with pytest.raises(Stopped):
        fit(fitted.name, Interrupted(tmp_path, stop_after=2))
    run = LocalRun(tmp_path)
    assert run.latest_checkpoint() is not None
    fit(fitted.name, run)
    _assert_same(contents(fitted.artifact), contents(run.artifact), "a training that was killed and resumed")


def test_saved_and_loaded_it_predicts_the_same(fitted: Fitted) -> None:
    """load_artifact() checks the golden rows; all test rows must agree as well."""
    expected = predict(fitted.predictor, fitted.test)
    write_golden(fitted.artifact, CATALOG, fitted.test)
    try:
        spec, loaded = load_artifact(fitted.artifact, CATALOG)
        _assert_close(spec, expected, predict(loaded, fitted.test), "after save and load")
    finally:
        (fitted.artifact / "golden.json").unlink()


def test_predictions_meet_the_declared_schema(fitted: Fitted) -> None:
    for row, prediction in zip(fitted.test, predict(fitted.predictor, fitted.test), strict=True):
        checked = fitted.spec.prediction.model_validate_json(json.dumps(prediction))
        assert checked.model_dump().keys() >= prediction.keys(), f"undeclared fields in the prediction for {row}"


@given(data=st.data())
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_a_batch_equals_one_by_one(fitted: Fitted, data: st.DataObject) -> None:
    """Any mix of lengths in one batch, from next to nothing to very long, is predicted as each row is alone."""
    rows = data.draw(st.lists(st.builds(_changed, st.sampled_from(fitted.test), _changes()), min_size=1, max_size=9))
    inputs = [fitted.spec.input.model_validate(row).model_dump(mode="json") for row in rows]
    items = fitted.predictor.prepare(inputs)
    assert all(item.cost >= 1 for item in items), "an item costs nothing"
    together = fitted.predictor.forward(items)
    alone = [fitted.predictor.forward(fitted.predictor.prepare([row]))[0] for row in inputs]
    _assert_close(fitted.spec, alone, together, "in a batch")


def test_artifacts_are_data_and_never_code(fitted: Fitted) -> None:
    files = contents(fitted.artifact)
    assert "artifact.json" in files
    others = [name for name in files if Path(name).suffix not in KINDS]
    assert not others, f"only {sorted(KINDS)} may be in an artifact"


@pytest.mark.parametrize("name", CATALOG.names())
def test_the_spec_is_read_without_torch(name: str) -> None:
    program = (
        "import sys; from recipekit.catalog import Catalog; "
        f"Catalog({CATALOG.packages!r}).spec({name!r}); "
        "print(sorted({'torch', 'sklearn', 'transformers', 'tokenizers', 'matplotlib'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", f"the spec of {name} imports {done.stdout}"


def _changes() -> st.SearchStrategy[str]:
    return st.sampled_from(["as it is", "one character", "one word", "long", "very long", "other signs"])


def _changed(row: Row, change: str) -> Mapping[str, Any]:
    """The row with its texts made shorter, longer or stranger; other columns stay."""

    def text(value: str) -> str:
        return {
            "as it is": value,
            "one character": value[:1],
            "one word": value.split(" ", maxsplit=1)[0],
            "long": " ".join([value] * 10),
            "very long": " ".join([value] * 100),
            "other signs": f"🙂 {value} \u0c15\u0c4d\u200d ?! 123",
        }[change]

    return {key: text(value) if isinstance(value, str) and value else value for key, value in row.items()}


def _assert_close(spec: Spec, expected: list[Any], got: list[Any], when: str) -> None:
    for number, (left, right) in enumerate(zip(expected, got, strict=True)):
        for path, difference in differences(dict(left), dict(right), spec.tolerance):
            pytest.fail(f"prediction {number} differs {when}: {path} {difference} (tolerance {spec.tolerance})")


def _assert_same(expected: dict[str, bytes], got: dict[str, bytes], what: str) -> None:
    assert expected.keys() == got.keys(), f"{what} left other files"
    other = [name for name in expected if expected[name] != got[name]]
    assert not other, f"{what} left other bytes in {other}"


if __name__ == "__main__":
    fit(sys.argv[1], Interrupted(Path(sys.argv[2]), **json.loads(sys.argv[3])))
