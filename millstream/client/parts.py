"""What both clients share: nothing here waits for the network."""

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from uuid import uuid4

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from millstream.dataset.v1.dataset_service_pb2 import ImportDatasetRequest, ImportHeader
from millstream.dataset.v1.import_pb2 import Import
from millstream.errors import DeadlineExceeded, InvalidArgument, Unavailable
from millstream.registry.v1.model_pb2 import ModelSpec
from millstream.training.v1.training_run_pb2 import Artifact, TrainingRun

CHUNK = 1 << 20
PAGE = 200
TRIES = 4
ENDED = (TrainingRun.STATE_SUCCEEDED, TrainingRun.STATE_FAILED, TrainingRun.STATE_CANCELLED)
IMPORT_ENDED = (Import.STATE_SUCCEEDED, Import.STATE_UNCHANGED, Import.STATE_REFUSED)


def new_request_id() -> str:
    """Names one wish, so that asking again after a lost reply is harmless."""
    return str(uuid4())


def model_spec(spec: ModelSpec | Mapping[str, Any]) -> ModelSpec:
    """A spec from its message or from a mapping such as a model.yaml. Raises InvalidArgument naming the wrong field."""
    if isinstance(spec, ModelSpec):
        return spec
    try:
        return ParseDict(dict(spec), ModelSpec())
    except ParseError as error:
        raise InvalidArgument(f"this is no model spec: {error}", field="spec") from None


def struct(values: Mapping[str, Any]) -> Struct:
    """A Struct from a mapping."""
    made = Struct()
    made.update(values)
    return made


def timestamp(moment: float) -> Timestamp:
    """A Timestamp from seconds since 1970."""
    made = Timestamp()
    made.FromNanoseconds(int(moment * 1e9))
    return made


def upload(header: ImportHeader, path: Path) -> Iterator[ImportDatasetRequest]:
    """The messages of one import: the header, then the file in chunks."""
    yield ImportDatasetRequest(header=header)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield ImportDatasetRequest(chunk=chunk)


@dataclass
class Patience:
    """How long a watch goes on: `timeout` seconds in all, and 30 seconds without any answer."""

    timeout: float | None
    what: str
    silence: float = 30.0
    started: float = field(default_factory=time.monotonic)
    tries: int = 0

    def __post_init__(self) -> None:
        self.last_heard = self.started

    def heard(self) -> None:
        self.last_heard, self.tries = time.monotonic(), 0

    def left(self) -> float | None:
        """Seconds until the timeout. Raises DeadlineExceeded once there are none."""
        if self.timeout is None:
            return None
        left = self.started + self.timeout - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"{self.what} was not there after {self.timeout:g} s; it goes on: ask again")
        return left

    def pause(self, error: Unavailable | None = None) -> float:
        """Seconds to wait before the next look. Raises the error once nobody has answered for too long."""
        if error and time.monotonic() - self.last_heard > self.silence:
            raise error
        left = self.left()
        self.tries += 1
        pause: float = min(1.0, 0.05 * 2 ** min(self.tries, 5))
        return pause if left is None else min(pause, left)


class ArtifactFolder:
    """Writes an artifact's files into a folder as their chunks come, and checks them against the manifest."""

    def __init__(self, folder: Path, artifact: Artifact) -> None:
        self.folder, self.artifact = folder, artifact
        self.path = ""
        self.file: BinaryIO | None = None

    def write(self, path: str, chunk: bytes) -> None:
        if path != self.path or self.file is None:
            self.close()
            target = self._inside(path)
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
            path = self._inside(file.path)
            if not path.exists() and not file.size_bytes:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
            if not path.exists() or digest_of(path) != file.digest:
                raise Unavailable(f"{path} did not arrive whole: download it again")

    def _inside(self, path: str) -> Path:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise InvalidArgument(f"artifact file {path!r} would leave its folder")
        return self.folder / path


def digest_of(path: Path) -> str:
    """sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
