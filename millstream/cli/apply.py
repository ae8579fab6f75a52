"""`millstream apply`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from millstream.cli.command import Cli, Failed, command
from millstream.cli.files import read_spec
from millstream.cli.output import advise
from millstream.errors import NotFound
from millstream.registry.v1.model_pb2 import Model, ModelSpec


def add_commands(root: typer.Typer) -> None:
    """Add apply."""
    command(root, "apply")(apply)


def apply(
    cli: Cli,
    name: Annotated[
        str, typer.Argument(metavar="MODEL", help="instead of a file: the name of a new model, with --dataset")
    ] = "",
    file: Annotated[
        Path | None, typer.Option("-f", "--file", help="a ModelSpec as YAML", exists=True, dir_okay=False)
    ] = None,
    dataset: Annotated[str, typer.Option("-d", "--dataset", help="of a new model: what it is trained on")] = "",
    preset: Annotated[str, typer.Option(help="of a new model: the recipe's config by name")] = "",
    etag: Annotated[str, typer.Option(help="fail unless it is the present etag")] = "",
) -> None:
    """Declare a model, or change it. An equal spec changes nothing.

    Without a file a new model has the recipe of its dataset and its gate, and is trained and promoted automatically.
    """
    if file and not (name or dataset or preset):
        spec = read_spec(file, ModelSpec)
    elif name and dataset and not file:
        spec = _new_spec(cli, name, dataset, preset)
    else:
        raise typer.BadParameter("give a file with -f, or the name of a new model with --dataset", param_hint="MODEL")
    model = cli.client.apply_model(spec, etag=etag)
    cli.screen.one(model, f"{model.name} is declared (etag {model.etag})")
    if not cli.screen.as_json:
        advise(_after_apply(cli, model))


def _new_spec(cli: Cli, name: str, dataset: str, preset: str) -> ModelSpec:
    """Raises Failed for a model that is declared otherwise: it would lose what its file says."""
    spec = ModelSpec(model=name, recipe=cli.client.dataset(dataset).spec.recipe, preset=preset, dataset=dataset)
    spec.training.automatic = spec.promotion.automatic = True
    if not spec.recipe:
        raise Failed(f"dataset {dataset} has no recipe that would train on it: declare the model by a file, with -f")
    with suppress(NotFound):
        if cli.client.model(name).spec != spec:
            raise Failed(
                f"{name} is declared otherwise: see `millstream models show {name}`; change it by a file, with -f"
            )
    return spec


def _after_apply(cli: Cli, model: Model) -> str:
    """What to do next."""
    if not model.spec.training.automatic:
        return f"train it: `millstream train {model.name} --watch`"
    if next(cli.client.versions(model.name), None):
        return (
            f"what it trains and serves: `millstream runs list --model {model.name}`, `millstream served {model.name}`"
        )
    return f"wait until it is trained, evaluated and served: `millstream served {model.name} --wait 1`"
