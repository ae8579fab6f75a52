"""The command `millstream`. It needs the extra `cli`; the client alone does not."""

import sys


def main() -> None:
    """Run the command line. Exit code 0: done, 1: refused or failed, 2: wrong usage."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
        import yaml  # noqa: F401
    except ImportError as error:
        print(f"the command line needs {error.name}: pip install 'millstream[cli]'", file=sys.stderr)
        raise SystemExit(1) from None
    from millstream.cli.app import app

    app()
