"""`millstream promote | rollback | release` and `millstream models`."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from millstream.aliases import served_aliases
from millstream.cli.command import Cli, command
from millstream.cli.format import action, alias_line, count, figures, hold_line, inexact_lines, rule_line, when
from millstream.cli.output import Cells, as_dict
from millstream.defaults import CHAMPION
from millstream.errors import DataLoss, NotFound
from millstream.inference.v1.inference_service_pb2 import LoadProblem
from millstream.registry.v1.model_pb2 import AliasEntry, Model, ModelVersion

app = typer.Typer(name="models", help="Models, their versions and their aliases.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="the model's name")]
Alias = Annotated[str, typer.Option(help="the alias to move")]
Reason = Annotated[str, typer.Option(help="kept with the entry")]


def add_commands(root: typer.Typer) -> None:
    """Add promote, rollback and release."""
    command(root, "promote")(promote)
    command(root, "rollback")(rollback)
    command(root, "release")(release)


def promote(
    cli: Cli,
    model: Name,
    version: Annotated[int, typer.Argument(min=1)],
    reason: Reason = "",
    override: Annotated[str, typer.Option(help="promote although no report passes the gate, for this reason")] = "",
    alias: Alias = CHAMPION,
    etag: Annotated[str, typer.Option(help="fail unless it is the number of the alias's newest entry")] = "",
) -> None:
    """Move an alias to a version and hold it there."""
    entry = cli.client.promote(model, version, reason=reason, override=override, alias=alias, etag=etag)
    _show_move(cli, entry)


def rollback(
    cli: Cli,
    model: Name,
    version: Annotated[int, typer.Argument(help="one that the alias once named; 0: the one before")] = 0,
    reason: Reason = "",
    alias: Alias = CHAMPION,
) -> None:
    """Move an alias back and hold it there."""
    entry = cli.client.rollback(model, version, reason=reason, alias=alias)
    _show_move(cli, entry)


def release(cli: Cli, model: Name, reason: Reason = "", alias: Alias = CHAMPION) -> None:
    """Let automatic promotion move the alias again."""
    entry = cli.client.release(model, reason=reason, alias=alias)
    _show_move(cli, entry)


def _show_move(cli: Cli, entry: AliasEntry) -> None:
    lines = [alias_line(entry)]
    if not cli.screen.as_json and entry.alias not in (CHAMPION, *cli.client.model(entry.model).spec.serving.aliases):
        lines.append(
            f"no caller gets it: inference does not serve {entry.alias} of {entry.model} until serving.aliases of the "
            "model's spec has it"
        )
    cli.screen.one(entry, "\n".join(lines))


@command(app, "list")
def list_models(cli: Cli) -> None:
    """Every model."""
    cli.screen.many(cli.client.models(), lambda model: {**_cells(model), CHAMPION: _champion(cli, model)})


def _champion(cli: Cli, model: Model) -> str:
    """The version that it names, or what of the model is damaged."""
    if model.problem:
        return model.problem
    listed = [entry for entry in model.aliases if entry.alias == CHAMPION]
    try:
        (entry,) = listed or [cli.client.alias(model.name)]
    except NotFound:
        return "-"
    except DataLoss as error:
        return error.text
    if entry.problem or not entry.version:
        return entry.problem or "-"
    return f"version {entry.version}{', on hold' if entry.hold else ''}"


def _cells(model: Model) -> Cells:
    spec = model.spec
    if model.problem:
        return {"model": model.name, **dict.fromkeys(("recipe", "dataset", "training", "promotion", "updated"), "-")}
    return {
        "model": model.name,
        "recipe": spec.recipe,
        "dataset": spec.dataset,
        "training": "automatic" if spec.training.automatic else "manual",
        "promotion": "automatic" if spec.promotion.automatic else "manual",
        "updated": when(model.update_time),
    }


@command(app, "show")
def show(
    cli: Cli,
    name: Name,
    version: Annotated[int, typer.Option(help="show this version instead")] = 0,
    alias: Annotated[str, typer.Option(help="show the version that this alias names instead")] = "",
) -> None:
    """A model as it is declared, with its aliases and gate, or one of its versions with its lineage."""
    if version or alias:
        found = cli.client.version(name, version, alias=alias)
        cli.screen.one(found, describe(found))
        return
    model = cli.client.model(name)
    lines = [f"{name}: {cell} {value}" for cell, value in list(_cells(model).items())[1:]]
    lines.append(f"{name}: etag {model.etag}, by {model.actor}")
    entries = {entry.alias: entry for entry in cli.client.aliases(name)}
    served = served_aliases(model.spec)
    lines += [
        f"{name}: {_alias_line(alias, entries, served)}" for alias in dict.fromkeys([CHAMPION, *served, *entries])
    ]
    lines.append(f"{name}: gate {'; '.join(map(rule_line, model.present_gate)) or 'none'}")
    newest = [as_dict(entry) for entry in entries.values()]
    cli.screen.one({**as_dict(model), "aliases": newest}, "\n".join(lines))


def _alias_line(alias: str, entries: Mapping[str, AliasEntry], served: Sequence[str]) -> str:
    """Which version an alias names, and whether callers get it by that name."""
    entry = entries.get(alias)
    named = f"{alias} names no version yet" if entry is None else hold_line(entry)
    if entry and entry.problem:
        named = f"{alias}: {entry.problem}"
    return named if alias in served else f"{named}; inference does not serve it (serving.aliases)"


def describe(version: ModelVersion) -> str:
    """A version in lines: its metrics on the validation split, run, dataset, recipe, code and artifact."""
    lineage = version.lineage
    code = f"{lineage.code_commit[:12] or 'unknown'}{' with changes' if lineage.code_dirty else ''}"
    made = f"{version.model} version {version.version} of {when(version.create_time)}"
    return "\n".join(
        [
            f"{made}, validation: {figures(version.metrics)}",
            f"run {version.run_id}, {count(lineage.attempts, 'attempt')}, seed {lineage.seed}, {lineage.hardware}",
            *inexact_lines(lineage),
            f"dataset {lineage.dataset} {lineage.dataset_number} ({lineage.snapshot_id})",
            f"recipe {lineage.recipe}, code {code}",
            f"artifact {version.artifact.digest}, {version.artifact.size_bytes} bytes",
        ]
    )


@command(app, "versions")
def versions(cli: Cli, name: Name) -> None:
    """A model's versions, newest first."""
    cli.screen.many(cli.client.versions(name), _version_cells)


def _version_cells(version: ModelVersion) -> Cells:
    return {
        "version": version.version,
        "validation metrics": version.problem or figures(version.metrics) or "-",
        "dataset": f"{version.lineage.dataset} {version.lineage.dataset_number}",
        "run": version.run_id,
        "created": when(version.create_time),
    }


@command(app, "aliases")
def aliases(
    cli: Cli,
    name: Name,
    alias: Annotated[str, typer.Option(help="whose history")] = CHAMPION,
    at: Annotated[datetime | None, typer.Option(help="only the entry in force at that time (local)")] = None,
) -> None:
    """Every move of an alias, newest first, with its actor and reason."""
    found = [cli.client.alias_at(name, at, alias)] if at else cli.client.alias_history(name, alias)
    cli.screen.many(found, _alias_cells)


def _alias_cells(entry: AliasEntry) -> Cells:
    return {
        "entry": entry.number,
        "version": entry.version,
        "action": action(entry),
        "hold": "on hold" if entry.hold else "-",
        "actor": entry.actor,
        "reason": entry.problem or entry.override or entry.reason or entry.report_id or "-",
        "time": when(entry.time),
    }


@command(app, "problems")
def problems(
    cli: Cli, name: Annotated[str, typer.Argument(help="the model's name; default: every model")] = ""
) -> None:
    """Aliases that the replica which answers does not serve by the version that they name, and why."""
    cli.screen.many(cli.client.load_problems(name), _problem_cells)


def _problem_cells(problem: LoadProblem) -> Cells:
    return {
        "model": problem.model,
        "alias": problem.alias,
        "version": problem.version,
        "refused": "by all" if problem.refused else "here",
        "reason": problem.reason,
    }


@command(app, "retry")
def retry(
    cli: Cli,
    name: Name,
    version: Annotated[int, typer.Argument(min=1)],
    note: Annotated[str, typer.Option(help="kept with the lift")] = "",
) -> None:
    """Let inference try to load a version again that it refuses or could not load. Needs the role operator."""
    lift = cli.client.retry_version(name, version, note)
    lifted = f": lifted the refusal {lift.refusal.reason!r}" if lift.HasField("refusal") else ""
    cli.screen.one(lift, f"{name} version {version} is tried again{lifted}")


@command(app, "download")
def download(
    cli: Cli,
    name: Name,
    folder: Annotated[Path, typer.Argument(help="created if it does not exist", file_okay=False)],
    version: Annotated[int, typer.Option(help="its number; 0: by the alias")] = 0,
    alias: Annotated[str, typer.Option(help="default: champion")] = "",
) -> None:
    """Write the files of a version's artifact into a folder."""
    found = cli.client.download_artifact(name, folder, version=version, alias=alias)
    cli.screen.one(found, f"{name} version {found.version}: {count(len(found.artifact.files), 'file')} in {folder}")
