"""Downloaded artifacts in a folder that does not grow."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path

from servicekit import artifacts
from servicekit.blobs import Blobs

ABANDONED_SECONDS = 3600.0


class Cache:
    """Keeps the artifacts used last. Replicas may share the folder: an artifact comes and goes by one rename."""

    def __init__(self, blobs: Blobs, folder: Path, keep: int) -> None:
        self.blobs, self.folder, self.keep = blobs, folder, keep

    async def fetch(self, digest: str) -> Path:
        """The artifact's folder, verified. Raises NotFound, or InvalidArgument when its bytes were damaged."""
        found = await artifacts.fetch(self.blobs, digest, self.folder)
        os.utime(found)
        return found

    def prune(self) -> None:
        """Remove all but the newest few, and what a killed download left. Blocking."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name.startswith(".") and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            whole = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            whole.sort(key=lambda path: path.stat().st_mtime, reverse=True)
            for path in whole[self.keep :]:
                going = path.with_name(f".going-{path.name}-{os.getpid()}")
                path.rename(going)
                shutil.rmtree(going, ignore_errors=True)
