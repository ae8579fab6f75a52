"""`millstream train` and `millstream runs`."""

import codecs
import json
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from millstream.cli.command import Cli, Failed, command
from millstream.cli.files import read_mapping
from millstream.cli.format import count, figures, inexact_lines, progress_parts, run_line, run_state, seconds, when
from millstream.cli.output import Cells, advise, progress_bar, write
from millstream.errors import NotFound
from millstream.training.v1.training_run_pb2 import TrainingRun

T = TypeVar("T")
app = typer.Typer(name="runs", help="Training runs.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(help="the run's id, or so much of its beginning that no other has it")]
NO_LOG = "its workers printed nothing yet, or it is kept no longer (MILLSTREAM_KEEP_LOGS_SECONDS of the trainer)"
SHORTEST, SEARCHED = 4, 1000
"""Characters of a beginning, and the newest runs that it is looked for among."""
STATES = {name.removeprefix("STATE_").lower(): number for name, number in TrainingRun.State.items() if number}


def add_train(root: typer.Typer) -> None:
    """Add train."""
    command(root, "train")(train)


def train(
    cli: Cli,
    model: Annotated[str, typer.Argument(help="a declared model")],
    dataset_number: Annotated[int, typer.Option(help="the snapshot's number; 0: the newest")] = 0,
    preset: Annotated[str, typer.Option(help="the recipe's config by name; default: the model's")] = "",
    config: Annotated[Path | None, typer.Option(help="what differs from the preset, as YAML", exists=True)] = None,
    request_id: Annotated[str, typer.Option(help="makes a retry idempotent: the same id is the same run")] = "",
    watch: Annotated[bool, typer.Option("--watch", help="wait until it has ended")] = False,
) -> None:
    """Start a training run by hand."""
    overrides = read_mapping(config) if config else None
    run = cli.client.train(model, dataset_number=dataset_number, preset=preset, config=overrides, request_id=request_id)
    if watch:
        follow(cli, run.run_id)
    else:
        cli.screen.one(run, run_line(run))


@command(app, "list")
def list_runs(
    cli: Cli,
    model: Annotated[str, typer.Option(help="only of this model")] = "",
    state: Annotated[list[str] | None, typer.Option(help=f"only in this state: {', '.join(STATES)}")] = None,
    limit: Annotated[int, typer.Option(help="at most this many; 0: all")] = 50,
) -> None:
    """Runs, newest first."""
    if unknown := set(state or ()) - set(STATES):
        raise typer.BadParameter(f"{unknown.pop()!r} is no state: {', '.join(STATES)}", param_hint="--state")
    found = cli.client.runs(model, [STATES[name] for name in state or ()])
    cli.screen.many(islice(cli.of_model(model, found) if model else found, limit or None), _cells)


def _cells(run: TrainingRun) -> Cells:
    return {
        "run": run.run_id,
        "model": run.spec.model,
        "dataset": f"{run.spec.dataset} {run.spec.dataset_number}",
        "state": run_state(run),
        "validation metrics": figures(run.metrics or run.progress.metrics) or ("-" if run.state else run.reason),
        "created": when(run.create_time),
    }


def with_id(cli: Cli, given: str, call: Callable[[str], T]) -> T:
    """Call with this id or, where no run has it, with the one that begins so. Raises NotFound, or Failed if several do."""
    try:
        return call(given)
    except NotFound:
        newest = islice(cli.client.runs(), SEARCHED) if len(given) >= SHORTEST else ()
        found = [run.run_id for run in newest if run.run_id.startswith(given) and run.run_id != given]
        if not found:
            raise
    if len(found) > 1:
        raise Failed(
            f"{count(len(found), 'run')} begin with {given}, such as {', '.join(found[:3])}: give more of the id"
        )
    return call(found[0])


@command(app, "show")
def show(cli: Cli, run_id: RunId) -> None:
    """One run."""
    run = with_id(cli, run_id, cli.client.run)
    spec, lineage = run.spec, run.lineage
    lines = [
        run_line(run),
        f"model {spec.model}, recipe {spec.recipe} ({spec.preset or 'default'})",
        f"dataset {spec.dataset} {spec.dataset_number} ({spec.snapshot_id})",
        f"created {when(run.create_time)} by {run.actor}, started {when(run.start_time)}, ended {when(run.end_time)}",
        f"training took {seconds(run.progress.elapsed)} in {count(run.attempt, 'attempt')}",
    ]
    if run.artifact.digest:
        code = f"{lineage.code_commit[:12] or 'unknown'}{' with changes' if lineage.code_dirty else ''}"
        lines.append(
            f"artifact {run.artifact.digest}, {run.artifact.size_bytes} bytes; code {code}; {lineage.hardware}"
        )
        lines += inexact_lines(lineage)
    cli.screen.one(run, "\n".join(lines))


@command(app, "watch")
def watch(cli: Cli, run_id: RunId) -> None:
    """Show a run's progress until it has ended. Exit code 1 unless it succeeds."""
    with_id(cli, run_id, partial(follow, cli))


def follow(cli: Cli, run_id: str) -> None:
    """Show a run's progress until it has ended. Raises Failed unless it succeeds."""
    if cli.screen.is_live:
        last = _show_bar(cli, run_id)
    else:
        last = cli.screen.stream(cli.client.watch_run(run_id), run_line)
    if last is None or last.state != TrainingRun.STATE_SUCCEEDED:
        raise Failed(run_line(last) if last else f"run {run_id}: no state was reported")


def _show_bar(cli: Cli, run_id: str) -> TrainingRun | None:
    run = None
    write(f"run {run_id}")
    with progress_bar("training") as bar:
        for run in cli.client.watch_run(run_id):
            text = ", ".join(progress_parts(run)) or run_state(run)
            bar(run.progress.step, run.progress.total_steps, text)
    if run:
        advise(run_line(run))
    return run


@command(app, "cancel")
def cancel(cli: Cli, run_id: RunId, reason: Annotated[str, typer.Option(help="kept with the run")] = "") -> None:
    """Cancel a run."""
    run = with_id(cli, run_id, lambda found: cli.client.cancel_run(found, reason))
    cli.screen.one(run, run_line(run))


@command(app, "logs")
def logs(
    cli: Cli,
    run_id: RunId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="continue until the run has ended")] = False,
) -> None:
    """What the run's workers printed."""
    with_id(cli, run_id, lambda found: _show_log(cli, found, follow))


def _show_log(cli: Cli, run_id: str, follow: bool) -> None:
    decoders: dict[int, Any] = defaultdict(lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    part = None
    for part in cli.client.run_log(run_id, follow):
        text = decoders[part.attempt].decode(part.chunk)
        if cli.screen.as_json:
            write(json.dumps({"attempt": part.attempt, "text": text}, ensure_ascii=False))
        else:
            write(text.replace("\r\n", "\n").replace("\r", "\n"), end="")  # a progress bar draws over itself
    if part is None:
        write(f"run {run_id} has no log: {NO_LOG}", error=True)
