"""`python -m millstream` is the command, as a process."""

import subprocess
import sys
from importlib.metadata import version


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "millstream", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_it_prints_its_version() -> None:
    assert run("--version").stdout == f"{version('millstream')}\n"


def test_wrong_usage_is_exit_code_2() -> None:
    assert run("lisst").returncode == 2
