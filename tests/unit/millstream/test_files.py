"""A file's digest, and paths that stay in their folder."""

from pathlib import Path

import pytest

from millstream.errors import InvalidArgument
from millstream.files import file_digest, path_inside


def test_the_digest_is_sha256_in_hex(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")  # the example of FIPS 180-2
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(tmp_path / "file") == digest


def test_a_path_stays_inside_its_folder(tmp_path: Path) -> None:
    assert path_inside(tmp_path, "deep/file") == tmp_path / "deep/file"
    for name in ("/etc/passwd", "../file", "deep/../../file"):
        with pytest.raises(InvalidArgument, match="would leave its folder"):
            path_inside(tmp_path, name)
