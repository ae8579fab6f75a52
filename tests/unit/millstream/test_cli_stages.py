"""What `served --wait` says at each stage of a version's way, and where it ends."""

from types import SimpleNamespace
from typing import Any

import pytest

from millstream.cli import stages
from millstream.cli.command import Failed
from millstream.cli.stages import Stage, stage_of, wait_served
from millstream.dataset.v1.dataset_pb2 import Dataset
from millstream.errors import DeadlineExceeded, NotFound
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport, GateResult
from millstream.inference.v1.inference_service_pb2 import LoadProblem
from millstream.inference.v1.prediction_pb2 import Served, ServedModel
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelSpec, ModelVersion, PromotionSpec, TrainingSpec
from millstream.training.v1.training_run_pb2 import TrainingRun, TrainingRunSpec

AUTOMATIC = Model(
    name="toy",
    spec=ModelSpec(
        model="toy", dataset="words", training=TrainingSpec(automatic=True), promotion=PromotionSpec(automatic=True)
    ),
)
MANUAL = Model(name="toy", spec=ModelSpec(model="toy", dataset="words"))
RUNNING = TrainingRun(run_id="run-2", state=TrainingRun.STATE_RUNNING)
SUCCEEDED = TrainingRun(run_id="run-2", state=TrainingRun.STATE_SUCCEEDED)
ON_SECOND = TrainingRunSpec(dataset="words", dataset_number=2)
LOST = TrainingRun(run_id="run-2", state=TrainingRun.STATE_FAILED, reason="killed by SIGKILL", spec=ON_SECOND)
FIRST, SECOND = (
    ModelVersion(model="toy", version=1, run_id="run-1"),
    ModelVersion(model="toy", version=2, run_id="run-2"),
)
PASSED = EvaluationReport(report_id="r", status=EvaluationReport.STATUS_PASSED)
FAILED = EvaluationReport(
    report_id="r", status=EvaluationReport.STATUS_FAILED, gate=[GateResult(text="accuracy is 0.5, not at least 0.9")]
)


def platform(
    model: Model | None = AUTOMATIC,
    runs: tuple[TrainingRun, ...] = (),
    versions: tuple[ModelVersion, ...] = (),
    reports: tuple[EvaluationReport, ...] = (),
    champion: AliasEntry | None = None,
    served: int = 0,
    problems: tuple[LoadProblem, ...] = (),
    snapshots: int = 2,
) -> Any:
    """A client of a platform in which this is the case."""

    def found(value: Any) -> Any:
        if value is None:
            raise NotFound("no model toy; there are: other")
        return value

    now = ServedModel(served=Served(model="toy", alias="champion", version=served))
    return SimpleNamespace(
        served=lambda _: iter([now] if served else []),
        model=lambda _: found(model),
        versions=lambda _: iter(versions),
        runs=lambda _, states=(): (run for run in runs if not states or run.state in states),
        reports=lambda _, version: iter(reports),
        alias=lambda _: found(champion),
        dataset=lambda _: Dataset(name="words", newest_number=snapshots),
        load_problems=lambda _: iter(problems),
    )


BOTH = (SECOND, FIRST)
STAGES: dict[str, tuple[Any, str, bool]] = {
    # what is the case: (the platform, the text, whether it ends the wait)
    "no such model": (platform(None), "no model toy; there are: other", True),
    "no data": (platform(), "no training yet: toy is trained once dataset words has a snapshot", False),
    "nobody trains": (platform(MANUAL), "there is no version 2 and no training: `millstream train toy`", True),
    "training": (platform(runs=(RUNNING,), versions=(FIRST,)), "in training: run run-2 running", False),
    "trained": (platform(runs=(SUCCEEDED,), versions=(FIRST,)), "in registration: run run-2 succeeded", False),
    "training failed": (platform(runs=(LOST,), versions=(FIRST,)), "run run-2 failed, killed by SIGKILL. Import", True),
    "another snapshot": (
        platform(runs=(LOST,), versions=(FIRST,), snapshots=3),
        "a training of toy on snapshot 3 of words is about to begin",
        False,
    ),
    "evaluation": (platform(versions=BOTH), "in evaluation: toy version 2 has no report yet", False),
    "gate failed": (
        platform(versions=BOTH, reports=(FAILED,)),
        "not at least 0.9. Read `millstream reports show r`",
        True,
    ),
    "gate failed, another trains": (
        platform(runs=(RUNNING,), versions=BOTH, reports=(FAILED,)),
        "not at least 0.9",
        False,
    ),
    "on hold": (
        platform(versions=BOTH, reports=(PASSED,), champion=AliasEntry(version=1, hold=True)),
        "champion is on hold at version 1: `millstream release toy`, or `millstream promote toy 2`",
        True,
    ),
    "manual promotion": (platform(MANUAL, versions=BOTH, reports=(PASSED,)), "its promotion is manual", True),
    "promotion": (platform(versions=BOTH, reports=(PASSED,)), "in promotion: toy version 2 passes its gate", False),
    "loading": (platform(versions=BOTH, champion=AliasEntry(version=2)), "in loading: champion is version 2", False),
    "no memory": (
        platform(
            versions=BOTH,
            champion=AliasEntry(version=2),
            problems=(LoadProblem(alias="champion", version=2, reason="no memory"),),
        ),
        "in loading: version 2: no memory",
        False,
    ),
    "refused": (
        platform(
            versions=BOTH,
            champion=AliasEntry(version=2),
            problems=(LoadProblem(alias="champion", version=2, reason="golden row 0", refused=True),),
        ),
        "golden row 0. `millstream models retry toy 2`, or roll back",
        True,
    ),
}


@pytest.mark.parametrize("case", STAGES)
def test_a_stage_says_what_is_waited_for_or_why_it_ends(case: str) -> None:
    client, text, ended = STAGES[case]
    stage = stage_of(client, "toy", 2)
    assert text in stage.text and (stage.ended, stage.serves) == (ended, False)


def test_a_later_version_serves_too() -> None:
    assert stage_of(platform(None, served=3), "toy", 2) == Stage("it is served", serves=True)


def test_the_wait_ends_with_the_reason_and_tells_each_stage_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SETTLED_SECONDS", 0.1)
    with pytest.raises(Failed, match=r"not at least 0\.9"):
        wait_served(platform(versions=BOTH, reports=(FAILED,)), "toy", 2, 60)
    with pytest.raises(DeadlineExceeded, match=r"does not serve version 2 \(in training: run run-2 running\)"):
        wait_served(platform(runs=(RUNNING,)), "toy", 2, 0.5)
    assert capsys.readouterr().err == "in training: run run-2 running\n"
