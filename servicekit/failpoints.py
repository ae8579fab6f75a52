"""Failpoints: named places between two durable writes, where a test can kill the process or observe it passing."""

import os
import signal

_FOLDER = os.environ.get("TEST_FAILPOINTS", "")
REACHED = ".reached"


def failpoint(name: str) -> None:
    """Die here, as by kill -9, if a test has put a file of this name into the folder TEST_FAILPOINTS.

    The process that removes the file dies, so each file kills exactly one. A file `NAME.reached` is removed without a death,
    which tells the test that the failpoint was passed.
    """
    if not _FOLDER:
        return
    _take(name + REACHED)
    if _take(name):
        os.kill(os.getpid(), signal.SIGKILL)


def _take(name: str) -> bool:
    try:
        os.unlink(os.path.join(_FOLDER, name))
    except FileNotFoundError:
        return False
    return True
