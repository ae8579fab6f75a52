"""Places where a process may die between two durable writes, named so that a test can kill it right there."""

import os
import signal

_FOLDER = os.environ.get("TEST_CRASHPOINTS", "")


def crashpoint(name: str) -> None:
    """Die here, as by kill -9, if a test has put a file of this name into the folder TEST_CRASHPOINTS.

    Removing the file is what claims the death, so each file kills exactly one process.
    """
    if not _FOLDER:
        return
    try:
        os.unlink(os.path.join(_FOLDER, name))
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
