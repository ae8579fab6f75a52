"""A file that a setting names is read whole, or ends the process with its name."""

from pathlib import Path

import pytest

from servicekit.files import read_file


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"secret\n\xff")
    assert read_file(str(tmp_path / "token")) == b"secret\n\xff"


def test_a_file_that_cannot_be_read_ends_the_process_with_its_name(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "missing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SystemExit, match=f"cannot read {path}: {reason}"):
            read_file(str(path))
