"""A file's digest, and paths that stay in their folder."""

from pathlib import Path

import pytest

from millstream import files
from millstream.errors import InvalidArgument
from millstream.files import WatchedFiles, file_digest, path_inside


def test_the_digest_is_sha256_in_hex(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")  # the example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "file") == digest


def test_a_path_stays_inside_its_folder(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "deep/file") == tmp_path / "deep/file"
    for name in ("/etc/passwd", "../file", "deep/../../file"):
        with pytest.raises(InvalidArgument, match="would leave its folder"):
            path_inside(tmp_path, name)


def number(data: bytes) -> int:
    return int(data)


@pytest.mark.parametrize("swapped", [False, True], ids=["rewritten", "swapped by a link"])
def test_a_watched_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(
    swapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "FRESH_SECONDS", 0.0)

    def write(text: str, version: int) -> None:
        if not swapped:
            (tmp_path / "file").write_text(text)
            return
        (tmp_path / str(version)).write_text(text)
        (tmp_path / "new").symlink_to(tmp_path / str(version))
        (tmp_path / "new").rename(tmp_path / "file")  # as Kubernetes swaps a secret

    write("1", 1)
    watched = WatchedFiles([str(tmp_path / "file")], number)
    assert watched.value == 1
    write("20", 2)
    assert watched.value == 20
    write("many", 3)
    assert watched.value == 20 and "the one before is" in caplog.text
    (tmp_path / "file").unlink()
    assert watched.value == 20
    write("300", 4)
    assert watched.value == 300


def test_a_watched_file_is_not_looked_at_for_each_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    watched = WatchedFiles([str(tmp_path / "file")], number)
    (tmp_path / "file").write_text("20")
    assert watched.value == 1


def test_a_file_that_cannot_be_used_at_first_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("many")
    with pytest.raises(ValueError, match="many"):
        WatchedFiles([str(tmp_path / "file")], number)
    with pytest.raises(FileNotFoundError):
        WatchedFiles([str(tmp_path / "none")], number)
