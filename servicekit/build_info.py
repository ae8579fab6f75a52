"""Which code is running: its commit and the versions of packages, for lineage."""

import os
import subprocess
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class BuildInfo(NamedTuple):
    """The commit in hex, "" where it is unknown; `dirty`: tracked files differ from it."""

    commit: str
    dirty: bool


@cache
def build_info() -> BuildInfo:
    """From the file COMMIT where there is one, as in an image, else from git. Blocks at the first call."""
    stamp = ROOT / "COMMIT"
    if stamp.exists():
        return BuildInfo(stamp.read_text().strip(), False)
    try:
        commit = _git("rev-parse", "HEAD")
        return BuildInfo(commit, bool(_git("status", "--porcelain", "--untracked-files=no")))
    except (OSError, subprocess.CalledProcessError):
        return BuildInfo("", False)


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=quiet).stdout.strip()


def package_versions() -> dict[str, str]:
    """Every installed distribution and its version."""
    return {name: found.version for found in distributions() if (name := found.metadata["Name"])}
