"""`millstream predict` and `millstream served`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from millstream.cli.command import Cli, Failed, command
from millstream.cli.files import read_rows
from millstream.cli.format import served_line
from millstream.cli.output import Cells, advise, as_dict
from millstream.cli.stages import wait_served
from millstream.defaults import CHAMPION
from millstream.errors import MillstreamError, NotFound
from millstream.inference.v1.prediction_pb2 import ServedModel, Timing
from millstream.timestamps import duration, seconds_of

ROWS = 256
"""Most rows of one request; a longer file is sent in parts."""
TEXT_SHOWN = 60
"""Characters of a text beside its answer."""


class Task(StrEnum):
    """The values of --task."""

    PREDICT = "predict"
    CLASSIFY = "classify"
    EMBED = "embed"
    SIMILAR = "similar"
    RANK = "rank"


def add_commands(root: typer.Typer) -> None:
    """Add predict and served."""
    command(root, "predict")(predict)
    command(root, "served")(served)


def predict(
    cli: Cli,
    model: Annotated[str, typer.Argument(help="the model's name")],
    texts: Annotated[list[str] | None, typer.Argument(help='each is a row {"text": …}')] = None,
    file: Annotated[Path | None, typer.Option(help="rows as JSON Lines or CSV; - reads standard input")] = None,
    task: Annotated[
        Task, typer.Option(help="predict serves every recipe, the others those that declare them")
    ] = Task.PREDICT,
    alias: Annotated[str, typer.Option(help="whose version answers; default: champion")] = "",
    label: Annotated[str, typer.Option(help="similar: only entries of it; rank: the label to rank by")] = "",
    limit: Annotated[int, typer.Option(help="similar: how many; 0: 10")] = 0,
) -> None:
    """Get predictions from a served model. Rows for rank are {"id": …, "texts": […]}.

    A file may be what `datasets import` takes: JSON Lines or CSV, gzip or not. Columns that the model does not read, such as
    an id, are not sent, and come back beside each answer. More than 256 rows go in several requests, one after the other;
    `timing` in -o json is then their sum.
    """
    rows: list[dict[str, Any]] = [{"text": text} for text in texts or ()] + (read_rows(file) if file else [])
    needed = _needed(task, rows)
    columns = needed if task is not Task.PREDICT else _columns(cli, model, alias) if file else set()
    kept = [{name: value for name, value in row.items() if name not in columns} if columns else {} for row in rows]
    sent = [
        {name: value for name, value in row.items() if name not in left} for row, left in zip(rows, kept, strict=True)
    ]
    answer = _answer(cli, model, task, sent, alias, label, limit)
    document = _exact(as_dict(answer))
    shown = next((value for value in document.values() if isinstance(value, list)), [])
    if task in (Task.RANK, Task.SIMILAR):
        lines = [json.dumps(one, ensure_ascii=False) for one in shown]
    else:
        lines = [_line(*each) for each in zip(shown, rows, kept, strict=True)]
        document |= {"rows": kept} if any(kept) else {}
    cli.screen.one(document, "\n".join([*lines, f"answered by {served_line(answer.served)}"]))


def _needed(task: Task, rows: list[dict[str, Any]]) -> set[str]:
    """The columns that each row must have for the task. Raises BadParameter if one lacks them."""
    if not rows:
        raise typer.BadParameter("give texts, or rows with --file", param_hint="TEXTS")
    if task is Task.SIMILAR and len(rows) != 1:
        raise typer.BadParameter("similar takes one text", param_hint="TEXTS")
    needed = {"id", "texts"} if task is Task.RANK else set() if task is Task.PREDICT else {"text"}
    for row in rows:
        if missing := needed - set(row):
            raise typer.BadParameter(f"a row for {task} needs {' and '.join(sorted(missing))}", param_hint="--file")
    return needed


def _columns(cli: Cli, model: str, alias: str) -> set[str]:
    """The columns that the served version reads; none if it takes any, or is not served, which the call then says."""
    for found in cli.client.served(model):
        if found.served.alias == (alias or CHAMPION):
            return set() if found.other_columns else set(found.columns)
    return set()


def _answer(cli: Cli, model: str, task: Task, rows: list[dict[str, Any]], alias: str, label: str, limit: int) -> Any:
    """The answer to all rows, joined where they go in several requests. Raises Failed if two versions answered."""
    whole = task in (Task.RANK, Task.SIMILAR)
    parts = [rows] if whole else [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)]
    answer = _call(cli, model, task, parts[0], alias, label, limit)
    for part in parts[1:]:
        more = _call(cli, model, task, part, alias, label, limit)
        if more.served != answer.served:
            raise Failed(f"{alias or CHAMPION} of {model} moved to version {more.served.version} meanwhile: try again")
        timing = _sum(answer.timing, more.timing)
        answer.MergeFrom(more)
        answer.timing.CopyFrom(timing)
    return answer


def _line(answer: dict[str, Any], row: dict[str, Any], kept: dict[str, Any]) -> str:
    """The columns that came back, the label with its confidence (else the whole answer), and the beginning of the text."""
    text = str(row.get("text", ""))
    if "label" in answer and "confidence" in answer:
        shown = f"{answer['label']} {answer['confidence']:.4f}"
    else:
        shown, text = json.dumps(answer, ensure_ascii=False, sort_keys=True), ""
    parts = [*(f"{name}={value}" for name, value in kept.items()), shown, _shortened(text)]
    return "\t".join(part for part in parts if part)


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_SHOWN else f"{line[: TEXT_SHOWN - 1]}…"


def _exact(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with the rows of neighbours from their text, in which every digit is kept."""
    for near in answer.get("neighbours", ()):
        if text := near.pop("row_json", ""):
            near["row"] = json.loads(text)
    return answer


def _sum(timing: Timing, more: Timing) -> Timing:
    """The steps of two answers, added: merging the messages would keep the later duration alone."""
    return Timing(
        prepare=duration(seconds_of(timing.prepare) + seconds_of(more.prepare)),
        queue=duration(seconds_of(timing.queue) + seconds_of(more.queue)),
        infer=duration(seconds_of(timing.infer) + seconds_of(more.infer)),
    )


def _call(cli: Cli, model: str, task: Task, rows: list[dict[str, Any]], alias: str, label: str, limit: int) -> Any:
    texts: list[Any] = [row.get("text") for row in rows]
    match task:
        case Task.PREDICT:
            return cli.client.predict(model, rows, alias)
        case Task.CLASSIFY:
            return cli.client.classify(model, texts, alias)
        case Task.EMBED:
            return cli.client.embed(model, texts, alias)
        case Task.SIMILAR:
            return cli.client.similar(model, texts[0], limit=limit, label=label, alias=alias)
        case Task.RANK:
            return cli.client.rank(model, {str(row["id"]): row["texts"] for row in rows}, label, alias)


def served(
    cli: Cli,
    model: Annotated[str, typer.Argument(help="the model's name; default: every model")] = "",
    wait: Annotated[
        int, typer.Option(help="wait until this version, or a later one, is the champion that answers")
    ] = 0,
    timeout: Annotated[float, typer.Option(help="timeout in seconds")] = 600.0,
) -> None:
    """What is loaded now, with the run and dataset that it comes from.

    --wait follows the version through training, evaluation, promotion and loading, and ends with the reason if it stops.
    """
    if wait and not model:
        raise typer.BadParameter("--wait needs a model", param_hint="MODEL")
    if wait:
        wait_served(cli.client, model, wait, timeout)
    holds, found = _Holds(cli), list(cli.client.served(model))
    cli.screen.many(found, lambda one: _cells(one, holds))
    if wait and not cli.screen.as_json:
        takes_text = any("text" in one.columns for one in found if one.served.alias == CHAMPION)
        rows = "'TEXT'" if takes_text else "--file FILE"
        advise(f"ask it: `millstream predict {model} {rows}`", error=True)


class _Holds:
    """Whether aliases are on hold. What is served is listed also while the registry is away, so it is asked in vain once."""

    def __init__(self, cli: Cli) -> None:
        self.cli, self.is_away = cli, False

    def of(self, model: str, alias: str) -> str:
        """`on hold`, `-`, or `unknown` while the registry does not answer."""
        if self.is_away:
            return "unknown"
        try:
            return "on hold" if self.cli.client.alias(model, alias).hold else "-"
        except NotFound:
            return "-"
        except MillstreamError:
            self.is_away = True
            return "unknown"


def _cells(found: ServedModel, holds: _Holds) -> Cells:
    return {
        "model": found.served.model,
        "alias": found.served.alias,
        "hold": holds.of(found.served.model, found.served.alias),
        "version": found.served.version,
        "tasks": ",".join(found.tasks) or "-",
        "backend": f"{found.served.backend} {found.served.precision}",
        "dataset": f"{found.lineage.dataset} {found.lineage.dataset_number}",
        "run": found.served.run_id,
    }
