"""The keys of an S3 store: from files, read again so that rotated keys need no restart, and named where they are missing."""

from pathlib import Path

import pytest

from millstream.errors import Unavailable
from servicekit.blobs.s3 import credentials as module
from servicekit.blobs.s3.credentials import FRESH_SECONDS, KeyFiles
from servicekit.blobs.s3.options import MinioOptions
from tests.worlds.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def keys_in(folder: Path) -> KeyFiles:
    options = MinioOptions(access_key_file=str(folder / "access"), secret_key_file=str(folder / "secret"))
    return KeyFiles(options, Unavailable)


def write(folder: Path, access: str, secret: str) -> None:
    (folder / "access").write_text(f"{access}\n")
    (folder / "secret").write_text(f" {secret}\n")


def test_keys_are_read_without_the_space_around_them(tmp_path: Path) -> None:
    write(tmp_path, "ada", "hers")
    found = keys_in(tmp_path).retrieve()
    assert (found.access_key, found.secret_key) == ("ada", "hers")


def test_rotated_keys_are_read_once_the_old_ones_are_no_longer_fresh(tmp_path: Path, clock: Clock) -> None:
    write(tmp_path, "ada", "old")
    keys = keys_in(tmp_path)
    assert keys.retrieve().secret_key == "old"
    write(tmp_path, "ada", "new")
    clock.now += FRESH_SECONDS
    assert keys.retrieve().secret_key == "old", "files are not read for each request"
    clock.now += 0.1
    assert keys.retrieve().secret_key == "new"


def test_a_missing_or_empty_file_is_named_with_its_setting(tmp_path: Path) -> None:
    write(tmp_path, "ada", "")
    with pytest.raises(Unavailable, match=f"MILLSTREAM_MINIO_SECRET_KEY_FILE={tmp_path / 'secret'}: it is empty"):
        keys_in(tmp_path).retrieve()
    (tmp_path / "access").unlink()
    with pytest.raises(Unavailable, match=r"MILLSTREAM_MINIO_ACCESS_KEY_FILE=.*: No such file"):
        keys_in(tmp_path).retrieve()
