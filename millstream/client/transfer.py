"""Upload of a file, and download of an artifact."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.errors import Unavailable
from millstream.files import file_digest, path_inside
from millstream.training.v1.training_run_pb2 import Artifact

CHUNK = 1 << 20


def upload(header: ImportHeader, path: Path) -> Iterator[ImportDatasetRequest]:
    """The messages of one import: the header, then the file's bytes in chunks of 1 MiB."""
    yield ImportDatasetRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield ImportDatasetRequest(chunk=chunk)


class ArtifactFolder:
    """Writes an artifact's files into a folder chunk by chunk, and checks them against the artifact's digests."""

    def __init__(self, folder: Path, artifact: Artifact) -> None:
        self.folder, self.artifact = folder, artifact
        self.path = ""
        self.file: BinaryIO | None = None

    def write(self, path: str, chunk: bytes) -> None:
        """Append a chunk to the file `path` of the artifact. Raises InvalidArgument for a path outside the folder."""
        if path != self.path or self.file is None:
            self.close()
            target = path_inside(self.folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path, self.file = path, target.open("wb")
        self.file.write(chunk)

    def close(self) -> None:
        """Close the open file, if there is one."""
        if self.file:
            self.file.close()
        self.file = None

    def check(self) -> None:
        """Raise Unavailable, which callers retry, unless every file is there with its digest. Empty files are made here."""
        for file in self.artifact.files:
            path = path_inside(self.folder, file.path)
            if not path.exists() and not file.size_bytes:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            if not path.exists() or file_digest(path) != file.digest:
                raise Unavailable(f"{path} is incomplete or damaged: download the artifact again")
