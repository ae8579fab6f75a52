"""The command `millstream`. It needs the extra `cli`; the client alone does not."""

import os
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
    # Errors have what there is to know; gRPC's own lines on stderr would stand above them.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from millstream.cli.app import app

    app()
