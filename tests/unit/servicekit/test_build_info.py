"""The commit comes from an image's file COMMIT, else from git, else it is unknown."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from servicekit import build_info as module
from servicekit.build_info import BuildInfo, build_info, package_versions


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in place of the checkout."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    build_info.cache_clear()
    yield tmp_path
    build_info.cache_clear()


def test_an_image_names_the_commit_that_it_was_built_from(root: Path) -> None:
    (root / "COMMIT").write_text("0123abcd\n")
    assert build_info() == BuildInfo("0123abcd", dirty=False)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_a_checkout_is_dirty_once_a_tracked_file_differs(root: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
        run = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    git("init", "-q")
    (root / "tracked").write_text("before")
    git("add", "tracked")
    git("commit", "-qm", "first")
    (root / "untracked").write_text("")
    assert build_info() == BuildInfo(git("rev-parse", "HEAD"), dirty=False)
    (root / "tracked").write_text("after")
    build_info.cache_clear()
    assert build_info().dirty


def test_elsewhere_the_commit_is_unknown(root: Path) -> None:
    assert build_info() == BuildInfo("", dirty=False)


def test_every_installed_package_has_its_version() -> None:
    assert package_versions()["grpcio"] == __import__("grpc").__version__
