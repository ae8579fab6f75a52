"""Files on their way to and from the platform."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.errors import Unavailable
from millstream.files import file_digest, path_inside
from millstream.training.v1.training_run_pb2 import Artifact

CHUNK = 1 << 20


def upload(header: ImportHeader, path: Path) -> Iterator[ImportDatasetRequest]:
    """The messages of one import: the header, then the file in chunks."""
    yield ImportDatasetRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield ImportDatasetRequest(chunk=chunk)


class ArtifactFolder:
    """Writes an artifact's files into a folder as their chunks come, and checks them against the manifest."""

    def __init__(self, folder: Path, artifact: Artifact) -> None:
        self.folder, self.artifact = folder, artifact
        self.path = ""
        self.file: BinaryIO | None = None

    def write(self, path: str, chunk: bytes) -> None:
        if path != self.path or self.file is None:
            self.close()
            target = path_inside(self.folder, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path, self.file = path, target.open("wb")
        self.file.write(chunk)

    def close(self) -> None:
        if self.file:
            self.file.close()
        self.file = None

    def check(self) -> None:
        """Raise Unavailable, so that the caller asks again, unless every file is there and is what its digest says."""
        for file in self.artifact.files:
            path = path_inside(self.folder, file.path)
            if not path.exists() and not file.size_bytes:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            if not path.exists() or file_digest(path) != file.digest:
                raise Unavailable(f"{path} did not arrive whole: download it again")
