"""Which code is running: for lineage."""

import os
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Code(NamedTuple):
    commit: str
    dirty: bool


@cache
def code() -> Code:
    """The commit of this checkout, or the one that an image was built from (its file COMMIT); "" where neither is."""
    stamp = ROOT / "COMMIT"
    if stamp.exists():
        return Code(stamp.read_text().strip(), False)
    try:
        commit = _git("rev-parse", "HEAD")
        return Code(commit, bool(_git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return Code("", False)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=quiet).stdout.strip()


def package_versions() -> dict[str, str]:
    """Every installed distribution and its version."""
    return {name: found.version for found in distributions() if (name := found.metadata["Name"])}
