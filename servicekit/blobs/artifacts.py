"""Folders of files in the object store, named by what they hold.

`artifacts/{digest}/files/{path}` first, `artifacts/{digest}/manifest` last: readers go by the manifest. The digest names
paths, sizes and contents, so storing the same folder twice, from two places at once, is one artifact.
"""

import asyncio
import os
import re
import shutil
import tempfile
from pathlib import Path

from millstream.errors import InvalidArgument
from millstream.files import file_digest, path_inside
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile
from servicekit.blobs.port import Blobs
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of

_DIGEST = re.compile("[0-9a-f]{32}")


def describe(folder: Path) -> Artifact:
    """The manifest of a folder: its files in order of path, and the digest of them all."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files.append(ArtifactFile(path=name, digest=file_digest(path), size_bytes=path.stat().st_size))
    digest = hash_of(*(part for file in files for part in (file.path, file.size_bytes, file.digest)))
    return Artifact(digest=digest, files=files, size_bytes=sum(file.size_bytes for file in files))


async def store(blobs: Blobs, folder: Path) -> Artifact:
    """Store a folder and return its manifest."""
    artifact = await asyncio.to_thread(describe, folder)
    for file in artifact.files:
        await blobs.upload(_file_key(artifact.digest, file.path), folder / file.path)
    failpoint("artifact.files-stored")
    await blobs.put(_manifest_key(artifact.digest), artifact.SerializeToString(deterministic=True))
    return artifact


async def manifest(blobs: Blobs, digest: str) -> Artifact:
    """The manifest of a stored artifact. Raises NotFound."""
    return Artifact.FromString(await blobs.get(_manifest_key(digest)))


async def fetch(blobs: Blobs, digest: str, cache: Path) -> Path:
    """The artifact as a folder `{cache}/{digest}`, downloaded and verified unless it is there already.

    It appears whole or not at all, so two processes may fetch it at once. Raises NotFound, or InvalidArgument when the
    bytes are not those that the digest names.
    """
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"{digest!r} is no digest of an artifact: 32 hex digits", field="digest")
    target = cache / digest
    if target.is_dir():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=cache, prefix=".fetching-"))
    try:
        for file in (await manifest(blobs, digest)).files:
            path = path_inside(fresh, file.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            await blobs.download(_file_key(digest, file.path), path)
        found = await asyncio.to_thread(describe, fresh)
        if found.digest != digest:
            raise InvalidArgument(
                f"the stored files of artifact {digest} are those of {found.digest}: they were damaged"
            )
        await asyncio.to_thread(_sync, fresh)
        try:
            os.rename(fresh, target)
        except OSError:
            if not target.is_dir():
                raise
        return target
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _sync(folder: Path) -> None:
    """A power cut after the rename must not leave a folder that is there, and trusted, with empty files in it."""
    for path in (*folder.rglob("*"), folder):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _file_key(digest: str, path: str) -> str:
    return f"artifacts/{digest}/files/{path}"


def _manifest_key(digest: str) -> str:
    return f"artifacts/{digest}/manifest"
