"""Means over rows and steps survive a checkpoint to the last bit; the history is JSON and a picture."""

import json
from pathlib import Path

import torch

from recipekit.training.history import Entry, Means, write_history


def test_means_weigh_batches_by_their_rows() -> None:
    means = Means()
    means.add({"loss": torch.tensor(1.0)}, rows=1, tokens=5)
    means.add({"loss": torch.tensor(4.0), "part": torch.tensor(2.0)}, rows=3, tokens=7)
    means.add_step(1.0)
    means.add_step(2.0)
    assert means.means() == {"loss": 13 / 4, "part": 6 / 4}
    assert means.gradient_norm == 1.5 and (means.rows, means.tokens) == (4, 12)
    assert Means().gradient_norm == 0


def test_means_continue_from_a_checkpoint_in_the_same_bits() -> None:
    losses = [torch.tensor(0.1) / n for n in range(1, 9)]
    whole, first = Means(), Means()
    for loss in losses:
        whole.add({"loss": loss}, 3, 9)
    for loss in losses[:4]:
        first.add({"loss": loss}, 3, 9)
    second = Means.of(json.loads(json.dumps(first.state())))
    for loss in losses[4:]:
        second.add({"loss": loss}, 3, 9)
    assert second.state() == whole.state()


def test_the_history_is_written_as_json_and_as_the_same_picture_twice(tmp_path: Path) -> None:
    history: list[Entry] = [
        {"step": n, "epoch": n / 2, "train": {"loss": 1 / n}, "validation": {"loss": 2 / n, "accuracy": 1 - 1 / n}}
        for n in range(1, 4)
    ]
    pictures = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        write_history(folder, history)
        assert json.loads((folder / "history.json").read_text()) == history
        pictures.append((folder / "training_history.png").read_bytes())
    assert pictures[0] == pictures[1] and pictures[0].startswith(b"\x89PNG")


def test_a_run_without_an_evaluation_has_no_picture(tmp_path: Path) -> None:
    write_history(tmp_path, [])
    assert [path.name for path in tmp_path.iterdir()] == ["history.json"]
