"""`make setup` names in one sentence what a machine lacks, and chooses the newest supported Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "tools/setup"
TOOLS = ["awk", "cat", "chmod", "cmp", "cp", "dirname", "mkdir", "mktemp", "rm", "sh"]

# A fake interpreter of a version. If it can install, it installs a fake uv that prints how it was called.
INTERPRETER = """#!/bin/sh
case "$*" in
    *version_info*) echo {minor} ;;
    *sys.executable*) echo {name} ;;
    "-m venv "*) {venv} && mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && cp {uv} "$3/bin/uv" ;;
    "-m pip --version") {pip} ;;
    "-m pip install"*--target*) {pip} && mkdir -p "$6/bin" && cp {uv} "$6/bin/uv" ;;
    "-m pip install"*) ;;
    *) exit 1 ;;
esac
"""
UV = """#!/bin/sh
[ "$1" != --version ] || exit 0
echo "uv $*; interpreter $UV_PYTHON; downloads $UV_PYTHON_DOWNLOADS"
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
printf '#!/bin/sh\\necho Python 3\\n' > "$UV_PROJECT_ENVIRONMENT/bin/python"
chmod +x "$UV_PROJECT_ENVIRONMENT/bin/python"
"""


class Machine:
    """A checkout on a machine whose PATH holds a few tools and the interpreters that a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.house, self.path, self.uv = folder / "house", folder / "bin", folder / "uv"
        shutil.copytree(SCRIPTS, self.house / "tools/setup")
        self.path.mkdir()
        for tool in TOOLS:
            (self.path / tool).symlink_to(shutil.which(tool) or pytest.fail(f"this machine has no {tool}"))
        self._script(self.uv, UV)

    def has(self, name: str, minor: int, *, venv: bool = True, pip: bool = True) -> None:
        can = {True: "true", False: "false"}
        text = INTERPRETER.format(minor=minor, name=name, venv=can[venv], pip=can[pip], uv=self.uv)
        self._script(self.path / name, text)

    def setup(self, script: str = "python.sh", *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.house / "tools/setup" / script, *(arguments or (".venv", "lint", "unit"))],
            env={"PATH": str(self.path), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @staticmethod
    def _script(path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize(("venv", "pip"), [(True, True), (True, False), (False, True)])
def test_venv_or_pip_is_enough(machine: Machine, venv: bool, pip: bool) -> None:
    machine.has("python3", 11, venv=venv, pip=pip)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    assert "uv sync --quiet --frozen --no-default-groups --group lint --group unit" in done.stdout
    assert "downloads never" in done.stdout


def test_without_both_it_says_what_to_install(machine: Machine) -> None:
    machine.has("python3", 11, venv=False, pip=False)
    done = machine.setup()
    assert done.returncode == 1
    assert "neither venv nor pip" in done.stderr and "apt install python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_old_python_is_named(machine: Machine) -> None:
    machine.has("python3", 10)
    done = machine.setup()
    assert done.returncode == 1
    assert "needs Python 3.11" in done.stderr and "python3 (3.10)" in done.stderr
    assert done.stderr.count("\n") == 1


def test_no_python_at_all(machine: Machine) -> None:
    done = machine.setup()
    assert done.returncode == 1
    assert "found none" in done.stderr and done.stderr.count("\n") == 1


def test_the_newest_that_fits_is_taken(machine: Machine) -> None:
    for name, minor in [("python3", 10), ("python3.11", 11), ("python3.13", 13), ("python3.12", 12)]:
        machine.has(name, minor)
    assert "interpreter python3.13;" in machine.setup().stdout


def test_the_user_may_choose(machine: Machine) -> None:
    machine.has("python3", 13)
    machine.has("python3.12", 12)
    assert "interpreter python3.12;" in machine.setup(PYTHON="python3.12").stdout


def test_a_choice_that_is_too_old_is_refused(machine: Machine) -> None:
    machine.has("python3.9", 9)
    assert "PYTHON=python3.9 is older than Python 3.11" in machine.setup(PYTHON="python3.9").stderr


def test_an_index_of_the_users_serves_an_export_of_the_lock(machine: Machine) -> None:
    machine.has("python3", 12)
    done = machine.setup(PIP_INDEX_URL="http://127.0.0.1:1/simple")
    assert done.returncode == 0, done.stderr
    assert "uv pip sync" in done.stdout and "--require-hashes" in done.stdout
    assert "uv sync" not in done.stdout


def test_without_npm_buf_is_skipped_aloud(machine: Machine) -> None:
    done = machine.setup("buf.sh", "lint")
    assert done.returncode == 0
    assert "SKIPPED buf" in done.stderr


def test_scripts_can_be_run() -> None:
    assert all(os.access(script, os.X_OK) for script in SCRIPTS.glob("*.sh"))
