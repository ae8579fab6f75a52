"""`millstream up` and `millstream down`: the platform of the checkout in the current folder."""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from millstream.cli.local import STATE, is_held, pid_of

STOP_SECONDS = 90.0


def add_commands(root: typer.Typer) -> None:
    """Add up and down."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    root.command("up", context_settings=passed_on, add_help_option=False)(up)
    root.command("down")(down)


def up(context: typer.Context) -> None:
    """Run all five services on this machine until Ctrl-C (--help shows the options)."""
    if not Path("deploy/local/__main__.py").is_file():
        print(
            f"{Path.cwd()} is no checkout of millstream: run `millstream up` in one, whose deploy/local starts the services",
            file=sys.stderr,
        )
        raise typer.Exit(1)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "deploy.local", *context.args])


def down(
    state: Annotated[Path, typer.Option(help="the folder that `up` was given")] = STATE,
) -> None:
    """Stop the platform of a state folder, and wait until it has ended."""
    pid = pid_of(state)
    if not pid:
        print(f"no platform runs on {state}", file=sys.stderr)
        raise typer.Exit(1)
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while is_held(state / "lock"):
        if time.monotonic() > deadline:
            print(f"process {pid} does not end", file=sys.stderr)
            raise typer.Exit(1)
        time.sleep(0.05)
    print(f"the platform of {state} has ended")
