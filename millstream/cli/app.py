"""The typer app with all commands."""

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from millstream.cli import apply, datasets, dlq, events, models, predict, reports, runs, status, up

app = typer.Typer(
    name="millstream",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
up.add_commands(app)
status.add_commands(app)
apply.add_commands(app)
models.add_commands(app)
runs.add_train(app)
predict.add_commands(app)
for part in (datasets, runs, models, reports, events, dlq):
    app.add_typer(part.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(version("millstream"))
        except PackageNotFoundError:
            print("a checkout")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Carries data to a served model.

    Every command but up and down takes -o json. Exit code 0: done, 1: refused or failed, 2: wrong usage.
    """
