"""What `millstream up` says once all services serve: commands that work as they are printed."""

from pathlib import Path

import pytest

from deploy.local.__main__ import _next_step
from deploy.local.options import Platform
from deploy.local.ports import Ports


def test_the_usual_platform_needs_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    status, following = _next_step(Platform(tmp_path / ".millstream", Ports(), "tests.recipes")).splitlines()
    assert status == "`millstream status` shows every replica, `millstream down` stops them"
    assert "`millstream datasets import FILE -d DATASET --recipe toy_words --watch`" in following


def test_another_folder_and_other_ports_are_part_of_the_commands(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "my state", Ports(23100), "tests.recipes,recipes")
    status, following = _next_step(platform).splitlines()
    assert f"`millstream status --state '{tmp_path}/my state'`" in status
    assert f"`millstream down --state '{tmp_path}/my state'`" in status
    assert "--recipe RECIPE --watch --port-base 23100`" in following
    assert following.endswith("; recipes: siamese_sentiment, toy_words")
