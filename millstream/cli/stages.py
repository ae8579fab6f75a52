"""How far a version is on its way from a training to callers, and why it goes no further."""

import time
from dataclasses import dataclass

from millstream import Client
from millstream.cli.command import Failed
from millstream.cli.format import run_line
from millstream.cli.output import advise
from millstream.client.shared import WatchDeadline
from millstream.defaults import CHAMPION
from millstream.errors import NotFound, Unavailable
from millstream.evaluation.v1.evaluation_report_pb2 import EvaluationReport
from millstream.registry.v1.model_pb2 import AliasEntry, Model
from millstream.states import RUN_ACTIVE, RUN_ENDED
from millstream.training.v1.training_run_pb2 import TrainingRun

SETTLED_SECONDS = 5.0
"""How long a stage lasts before it is the end: what was just done may not be known everywhere yet."""


@dataclass(frozen=True)
class Stage:
    """What is the case now. `ended`: it stays so until a person does what the text says; `serves`: callers get it."""

    text: str
    ended: bool = False
    serves: bool = False


def wait_served(client: Client, model: str, version: int, timeout: float) -> None:
    """Wait until the champion that answers is this version or a later one; each new stage is a line on stderr.

    Raises Failed with the reason as soon as it will not come by itself, DeadlineExceeded, and Unavailable after 30 s.
    """
    deadline = WatchDeadline(timeout, f"{CHAMPION} of {model} does not serve version {version}")
    shown, since = "", time.monotonic()
    while True:
        try:
            stage = stage_of(client, model, version)
        except Unavailable as error:
            time.sleep(deadline.backoff(error))
            continue
        if stage.serves:
            return
        if stage.text != shown:
            if not stage.ended:
                advise(stage.text, error=True)
            shown, since = stage.text, time.monotonic()
            deadline.unmet = f"{CHAMPION} of {model} does not serve version {version} ({shown})"
        elif stage.ended and time.monotonic() - since >= SETTLED_SECONDS:
            raise Failed(stage.text)
        time.sleep(deadline.backoff())


def stage_of(client: Client, model: str, version: int) -> Stage:
    """How far this version, or a later one, is. Raises what the calls raise, but for NotFound."""
    if _is_served(client, model, version):
        return Stage("it is served", serves=True)
    try:
        declared = client.model(model)
    except NotFound as error:
        return Stage(error.text, ended=True)
    newest = next(iter(client.versions(model)), None)
    if newest is None or newest.version < version:
        return _training(client, declared, version)
    try:
        champion = client.alias(model)
    except NotFound:
        champion = AliasEntry()
    if champion.version >= version:
        return _loading(client, model, champion.version)
    return _promotion(client, declared, newest.version, champion)


def _training(client: Client, model: Model, version: int) -> Stage:
    run = next(iter(client.runs(model.name)), None)
    if run is None:
        if model.spec.training.automatic:
            return Stage(f"no training yet: {model.name} is trained once dataset {model.spec.dataset} has a snapshot")
        return Stage(f"there is no version {version} and no training: `millstream train {model.name}`", ended=True)
    if run.state not in RUN_ENDED:
        return Stage(f"in training: {run_line(run)}")
    if run.state == TrainingRun.STATE_SUCCEEDED and not any(
        v.run_id == run.run_id for v in client.versions(model.name)
    ):
        return Stage(f"in registration: {run_line(run)}")
    if model.spec.training.automatic and (newer := _newer_snapshot(client, model, run)):
        return Stage(f"a training of {model.name} on snapshot {newer} of {model.spec.dataset} is about to begin")
    return Stage(
        f"there is no version {version} of {model.name}, and no training goes on; the newest: {run_line(run)}. Import rows, "
        f"or `millstream train {model.name}`",
        ended=True,
    )


def _newer_snapshot(client: Client, model: Model, run: TrainingRun) -> int:
    """The number of the dataset's newest snapshot, if the run was on another; 0 if not."""
    try:
        newest = client.dataset(model.spec.dataset).newest_number
    except NotFound:
        return 0
    is_same = (run.spec.dataset, run.spec.dataset_number) == (model.spec.dataset, newest)
    return 0 if is_same else int(newest)


def _promotion(client: Client, model: Model, version: int, champion: AliasEntry) -> Stage:
    name = f"{model.name} version {version}"
    report = next(iter(client.reports(model.name, version)), None)
    if report is None:
        return Stage(f"in evaluation: {name} has no report yet")
    by_hand = f"`millstream promote {model.name} {version}`"
    if report.status != EvaluationReport.STATUS_PASSED:
        reasons = [result.text for result in report.gate if not result.passed] or [report.error]
        text = f"{name} does not pass its gate: {'; '.join(reasons)}. Read `millstream reports show {report.report_id}`"
        active = next(iter(client.runs(model.name, RUN_ACTIVE)), None)
        return Stage(text, ended=active is None)
    if champion.hold:
        return Stage(
            f"{name} passes, but {CHAMPION} is on hold at version {champion.version}: `millstream release {model.name}`, or "
            f"{by_hand}",
            ended=True,
        )
    if not model.spec.promotion.automatic:
        return Stage(f"{name} passes, and its promotion is manual: {by_hand}", ended=True)
    return Stage(f"in promotion: {name} passes its gate")


def _loading(client: Client, model: str, version: int) -> Stage:
    for problem in client.load_problems(model):
        if problem.alias == CHAMPION and problem.refused:
            text = f"inference refuses {model} version {problem.version}: {problem.reason}"
            return Stage(f"{text}. `millstream models retry {model} {problem.version}`, or roll back", ended=True)
        if problem.alias == CHAMPION:
            return Stage(f"in loading: version {problem.version}: {problem.reason}")
    return Stage(f"in loading: {CHAMPION} is version {version}")


def _is_served(client: Client, model: str, version: int) -> bool:
    try:
        found = [one.served for one in client.served(model)]
    except NotFound:
        return False
    return any(served.alias == CHAMPION and served.version >= version for served in found)
