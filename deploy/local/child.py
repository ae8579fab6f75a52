"""`python -m deploy.local.child SERVICE PARENT_PID`: runs `services.SERVICE` under deploy.local.

It ends when its supervisor dies, however that dies, and takes from the environment only the settings that the service
declares: the service reads its settings module anyway, so that the supervisor need not import five of them first.
"""

import ctypes
import importlib
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)


def end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the parent dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before that
            sys.exit(1)


def main(service: str, parent: int) -> None:
    end_with(parent)
    settings = importlib.import_module(f"services.{service}.settings").Settings
    declared = {variable.name for variable in settings.variables()}
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_") and name not in declared]:
        del os.environ[name]
    sys.argv = [f"services.{service}"]
    runpy.run_module(f"services.{service}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
