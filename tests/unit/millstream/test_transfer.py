"""Upload in chunks, and an artifact's folder."""

import hashlib
from pathlib import Path

import pytest

from millstream.client.transfer import CHUNK, ArtifactFolder, upload
from millstream.dataset.v1.dataset_service_pb2 import ImportHeader
from millstream.errors import InvalidArgument, Unavailable
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile


def artifact(**files: bytes) -> Artifact:
    return Artifact(
        files=[
            ArtifactFile(path=name, digest=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
            for name, data in files.items()
        ]
    )


def test_an_upload_is_its_header_and_the_bytes_in_chunks(tmp_path: Path) -> None:
    data = b"x" * (2 * CHUNK + 1)
    (tmp_path / "file").write_bytes(data)
    first, *parts = upload(ImportHeader(dataset="words"), tmp_path / "file")
    assert first.header.dataset == "words"
    assert [len(part.chunk) for part in parts] == [CHUNK, CHUNK, 1]
    assert b"".join(part.chunk for part in parts) == data


def test_an_empty_file_has_no_chunk_in_either_direction(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert len(list(upload(ImportHeader(), tmp_path / "file"))) == 1
    folder = ArtifactFolder(tmp_path / "artifact", artifact(empty=b""))
    folder.check()
    assert (tmp_path / "artifact/empty").read_bytes() == b""


def test_files_are_written_chunk_by_chunk_and_checked(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path, artifact(one=b"ab", two=b"c"))
    for name, chunk in (("one", b"a"), ("one", b"b"), ("two", b"c")):
        folder.write(name, chunk)
    folder.close()
    folder.check()
    assert (tmp_path / "one").read_bytes() == b"ab"


def test_a_missing_or_damaged_file_is_unavailable(tmp_path: Path) -> None:
    folder = ArtifactFolder(tmp_path, artifact(one=b"ab"))
    with pytest.raises(Unavailable, match="one is incomplete or damaged"):
        folder.check()
    folder.write("one", b"ax")
    folder.close()
    with pytest.raises(Unavailable, match="one is incomplete or damaged"):
        folder.check()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_a_path_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="would leave its folder"):
        ArtifactFolder(tmp_path / "artifact", Artifact()).write(name, b"x")
    assert not (tmp_path / "evil").exists()
