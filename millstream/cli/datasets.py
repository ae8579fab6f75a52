"""`millstream datasets`."""

import json
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from millstream.cli.command import Cli, Failed, command
from millstream.cli.files import read_spec
from millstream.cli.format import file_lines, import_line, label_lines, when
from millstream.cli.output import Cells, advise, write
from millstream.client.shared import ImportMode
from millstream.dataset.v1.dataset_pb2 import ColumnReport, Dataset, DatasetSpec, Snapshot
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import MillstreamError

app = typer.Typer(name="datasets", help="Datasets, their imports and snapshots.", no_args_is_help=True)

DISTINCT_STOP = 1000
"""Dataprep stops counting the distinct values of a column here."""

Name = Annotated[str, typer.Argument(help="the dataset's name")]
Number = Annotated[int, typer.Option(help="the snapshot's number; 0: the newest")]


@command(app, "import")
def import_file(
    cli: Cli,
    file: Annotated[Path, typer.Argument(help="JSON Lines or CSV", exists=True, dir_okay=False)],
    dataset: Annotated[str, typer.Option("-d", "--dataset", help="its name; created by its first import")],
    recipe: Annotated[str, typer.Option(help="the recipe whose row schema applies; only at the first import")] = "",
    spec: Annotated[
        Path | None, typer.Option(help="a DatasetSpec as YAML, for cleaning and split", exists=True)
    ] = None,
    request_id: Annotated[str, typer.Option(help="makes a retry idempotent: the same id is the same import")] = "",
    append: Annotated[bool, typer.Option("--append", help="add the file's rows to those of the dataset")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="keep the file's rows alone")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="wait until it has ended")] = False,
) -> None:
    """Import a file into a dataset. From its second import on, --append or --replace says what becomes of its rows."""
    if append and replace:
        text = "--append keeps the rows of the dataset and --replace drops them: leave one of the two out"
        raise typer.BadParameter(text, param_hint="--append")
    whole = read_spec(spec, DatasetSpec) if spec else None
    if whole and recipe:
        whole.recipe = recipe
    mode: ImportMode = "append" if append else "replace" if replace else ""
    created = cli.client.import_dataset(file, dataset, recipe=recipe, spec=whole, request_id=request_id, mode=mode)
    if watch:
        ended = cli.screen.stream(cli.client.watch_import(dataset, created.request_id), import_line)
        if ended is None or ended.state == Import.STATE_REFUSED:
            raise Failed(f"the import was refused: {ended.refusal if ended else 'no state was reported'}")
    else:
        ended = created
        cli.screen.one(created, import_line(created))
    if ended.snapshot_number:
        lines = [*file_lines(ended), *label_lines(cli.client.snapshot(dataset, ended.snapshot_number))]
        lines += [] if cli.screen.as_json else _after_import(cli, dataset)
    else:
        lines = [] if ended.state == Import.STATE_REFUSED else [_how_to_watch(file, created, mode)]
    for line in lines:
        # On stderr where the output is JSON: the import has those of the file, `datasets show` those of the labels.
        advise(line, error=cli.screen.as_json)


def _how_to_watch(file: Path, created: Import, mode: ImportMode) -> str:
    words = ("import", quote(str(file)), "-d", created.dataset, *([f"--{mode}"] if mode else ()))
    again = f"millstream datasets {' '.join(words)} --request-id {created.request_id} --watch"
    return f"see how it ends, and what is quarantined: `{again}`"


def _after_import(cli: Cli, dataset: str) -> list[str]:
    """Which models train on the dataset, or how one is declared; nothing while the registry does not answer."""
    try:
        models = [model for model in cli.client.models() if model.spec.dataset == dataset]
    except MillstreamError:
        return []
    if not models:
        return [f"declare a model that trains on it, by a name of its own: `millstream apply MODEL -d {dataset}`"]
    return [
        f"{model.name} trains on it by itself: `millstream runs list --model {model.name}`"
        if model.spec.training.automatic
        else f"train {model.name} on it: `millstream train {model.name} --watch`"
        for model in models
    ]


@command(app, "list")
def list_datasets(cli: Cli) -> None:
    """Every dataset."""
    cli.screen.many(cli.client.datasets(), _cells)


def _cells(found: Dataset) -> Cells:
    return {
        "dataset": found.name,
        "recipe": found.problem or found.spec.recipe or "-",
        "snapshots": found.newest_number,
    }


@command(app, "show")
def show(cli: Cli, name: Name, number: Number = 0) -> None:
    """A snapshot: its rows, splits, quarantine, columns and labels."""
    snapshot = cli.client.snapshot(name, number)
    cli.screen.one(snapshot, describe(snapshot))


def describe(snapshot: Snapshot) -> str:
    """A snapshot in lines: its source, rows, splits, quarantine reasons, columns and labels."""
    rows = snapshot.rows
    lines = [
        f"{snapshot.dataset} snapshot {snapshot.number} ({snapshot.snapshot_id}) of {when(snapshot.create_time)}",
        f"from {snapshot.source.file_name}, {snapshot.source.size_bytes} bytes"
        + (f" (dialect: {snapshot.source.dialect})" if snapshot.source.dialect else ""),
        f"{rows.read - rows.carried} rows read: {rows.kept - rows.carried} kept, {rows.duplicate} duplicate, "
        f"{rows.quarantined} quarantined"
        + (f"; with {rows.carried} rows of the snapshot before {rows.kept} rows" if rows.carried else ""),
        "splits: " + ", ".join(f"{name} {count}" for name, count in sorted(snapshot.splits.items())),
    ]
    lines += [f"quarantined, {reason}: {count}" for reason, count in sorted(snapshot.quarantine_reasons.items())]
    lines += [f"columns of the {rows.kept} kept rows:"] if snapshot.columns else []
    lines += [_column_line(column) for column in snapshot.columns]
    return "\n".join([*lines, *label_lines(snapshot)])


def _column_line(column: ColumnReport) -> str:
    parts = [f"{column.present} present", f"{column.empty} empty", f"{_distinct(column)} distinct"]
    if column.trimmed:
        parts.append(f"{column.trimmed} of the file trimmed of invisible edges")
    if column.normalised:
        parts.append(f"{column.normalised} decimals read as whole numbers")
    return f"column {column.name}: {', '.join(parts)}{'' if column.kept else ' (not kept)'}"


def _distinct(column: ColumnReport) -> str:
    # Snapshots of earlier versions do not say that counting stopped.
    stopped = column.distinct_stopped or column.distinct == DISTINCT_STOP
    return f"{column.distinct:,} or more" if stopped else str(column.distinct)


@command(app, "snapshots")
def snapshots(cli: Cli, name: Name) -> None:
    """The dataset's snapshots, newest first."""
    cli.screen.many(cli.client.snapshots(name), _snapshot_cells)


def _snapshot_cells(found: Snapshot) -> Cells:
    return {
        "number": found.number,
        "snapshot": found.snapshot_id,
        "kept": found.rows.kept,
        "file": found.problem or found.source.file_name,
        "time": when(found.create_time),
    }


@command(app, "rows")
def rows(
    cli: Cli,
    name: Name,
    number: Number = 0,
    split: Annotated[str, typer.Option(help="train, validation, test or quarantine")] = "train",
    limit: Annotated[int, typer.Option(help="at most this many rows; 0: all")] = 20,
) -> None:
    """Rows, one JSON object a line."""
    for count, row in enumerate(cli.client.rows(name, number, split), 1):
        write(json.dumps(row, ensure_ascii=False))
        if count == limit:
            return
