"""The access and secret key of an S3 store, read from files."""

import time
from collections.abc import Callable
from pathlib import Path

from minio.credentials.credentials import Credentials
from minio.credentials.providers import Provider
from typing_extensions import override

from millstream.errors import Unavailable
from servicekit.blobs.s3.options import MinioOptions

FRESH_SECONDS = 1.0


class KeyFiles(Provider):
    """Credentials from two files, read again after FRESH_SECONDS, so that rotated keys need no restart."""

    def __init__(self, options: MinioOptions, unavailable: Callable[[str], Unavailable]) -> None:
        self._options, self._unavailable = options, unavailable
        self._read = -FRESH_SECONDS
        self._found: Credentials | None = None

    @override
    def retrieve(self) -> Credentials:
        if self._found is None or time.monotonic() - self._read > FRESH_SECONDS:
            self._found = Credentials(
                self._file("ACCESS", self._options.access_key_file), self._file("SECRET", self._options.secret_key_file)
            )
            self._read = time.monotonic()
        return self._found

    def _file(self, which: str, path: str) -> str:
        try:
            text = Path(path).read_text().strip()
        except OSError as error:
            text, why = "", error.strerror
        else:
            why = "it is empty"
        if not text:
            raise self._unavailable(f"cannot read MILLSTREAM_MINIO_{which}_KEY_FILE={path}: {why}")
        return text
