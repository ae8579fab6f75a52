"""`python -m deploy.local.child SERVICE PARENT_PID`: runs `services.SERVICE` under deploy.local.

It ends when its supervisor dies, even by SIGKILL, and keeps of the MILLSTREAM_ variables only those that the service
declares. The supervisor passes all of them to each child: else it had to import five settings modules first.
"""

import importlib
import os
import runpy
import sys

from servicekit.children import end_with


def main(service: str, parent: int) -> None:
    """Run the service in this process until it ends."""
    end_with(parent)
    settings = importlib.import_module(f"services.{service}.settings").Settings
    declared = {variable.name for variable in settings.variables()}
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_") and name not in declared]:
        del os.environ[name]
    sys.argv = [f"services.{service}"]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
