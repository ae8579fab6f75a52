"""A local run keeps whole checkpoints only, and numerics once measured."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recipekit.run import LocalRun


def _write(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "state").write_text(text)

    return write


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    run = LocalRun(tmp_path)
    for step in (5, 10, 100):
        run.save_checkpoint(step, _write(str(step)))
    newest = run.latest_checkpoint()
    assert newest is not None and (newest / "state").read_text() == "100"
    assert len(list(run.checkpoints.iterdir())) == 2


def test_a_write_that_dies_leaves_no_checkpoint(tmp_path: Path) -> None:
    def die(folder: Path) -> None:
        (folder / "half").write_text("")
        raise OSError("disk full")

    run = LocalRun(tmp_path)
    run.save_checkpoint(1, _write("1"))
    with pytest.raises(OSError, match="disk full"):
        run.save_checkpoint(2, die)
    newest = LocalRun(tmp_path).latest_checkpoint()
    assert newest is not None and (newest / "state").read_text() == "1"


def test_numerics_are_measured_once(tmp_path: Path) -> None:
    assert LocalRun(tmp_path).numerics(lambda: {"dtype": "bf16"}) == {"dtype": "bf16"}
    assert LocalRun(tmp_path).numerics(lambda: {"dtype": "fp32"}) == {"dtype": "bf16"}
