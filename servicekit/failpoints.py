"""Places where a process may die between two durable writes, named so that a test can kill it right there, or be told."""

import os
import signal

_FOLDER = os.environ.get("TEST_FAILPOINTS", "")
TOLD = ".reached"


def failpoint(name: str) -> None:
    """Die here, as by kill -9, if a test has put a file of this name into the folder TEST_FAILPOINTS.

    Removing the file is what claims the death, so each file kills exactly one process. A file `NAME.reached` is only
    removed: by that a test learns that somebody came by, and so how far the flow is.
    """
    if not _FOLDER:
        return
    _take(name + TOLD)
    if _take(name):
        os.kill(os.getpid(), signal.SIGKILL)


def _take(name: str) -> bool:
    try:
        os.unlink(os.path.join(_FOLDER, name))
    except FileNotFoundError:
        return False
    return True
