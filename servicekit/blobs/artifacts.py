"""Folders of files in the object store: a trained model, named by what it holds, or a checkpoint of a training run.

`{prefix}/files/{path}` first, `{prefix}/manifest` last: readers go by the manifest, so a folder is whole or not there.
An artifact's prefix is `artifacts/{digest}`. The digest names paths, sizes and contents, so storing the same folder twice,
from two places at once, is one artifact.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from millstream.errors import InvalidArgument
from millstream.files import file_digest, path_inside
from millstream.training.v1.training_run_pb2 import Artifact, ArtifactFile
from servicekit.blobs.port import Blobs
from servicekit.blobs.stored import decode
from servicekit.failpoints import failpoint
from servicekit.ids import hash_of

_DIGEST = re.compile("[0-9a-f]{32}")
_MANIFEST = "/manifest"


def describe(folder: Path) -> Artifact:
    """The manifest of a folder on disk: its files in order of path, and the digest of them all. Blocking."""
    files = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        files.append(ArtifactFile(path=name, digest=file_digest(path), size_bytes=path.stat().st_size))
    digest = hash_of(*(part for file in files for part in (file.path, file.size_bytes, file.digest)))
    return Artifact(digest=digest, files=files, size_bytes=sum(file.size_bytes for file in files))


def prefix_of(digest: str) -> str:
    """The prefix of an artifact's objects. Raises InvalidArgument for a malformed digest."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidArgument(f"{digest!r} is no digest of an artifact: 32 hex digits", field="digest")
    return f"artifacts/{digest}"


def file_key(prefix: str, path: str) -> str:
    """The key of one file of a stored folder."""
    return f"{prefix}/files/{path}"


async def store(blobs: Blobs, folder: Path, prefix: str = "") -> Artifact:
    """Store a folder and return its manifest. `prefix`: of its objects, by default the one of its digest."""
    artifact = await asyncio.to_thread(describe, folder)
    prefix = prefix or prefix_of(artifact.digest)
    for file in artifact.files:
        await blobs.upload(file_key(prefix, file.path), folder / file.path)
    kind = prefix.partition("/")[0]
    failpoint(f"{kind}.files-stored")
    await blobs.put(prefix + _MANIFEST, artifact.SerializeToString(deterministic=True))
    return artifact


async def manifest(blobs: Blobs, prefix: str) -> Artifact:
    """The manifest of a stored folder. Raises NotFound, DataLoss."""
    key = prefix + _MANIFEST
    return decode(Artifact, await blobs.get(key), key)


async def stored_under(blobs: Blobs, prefix: str) -> AsyncIterator[str]:
    """The prefixes of the whole folders among all objects under `prefix`, which ends with `/`."""
    async for listed in blobs.list(prefix):
        if listed.key.endswith(_MANIFEST) and "/files/" not in listed.key:
            yield listed.key.removesuffix(_MANIFEST)


async def download(blobs: Blobs, prefix: str, folder: Path, digest: str = "") -> None:
    """Fill an empty folder on disk and verify it against `digest`, by default the manifest's own.

    Raises NotFound, DataLoss for a damaged manifest, or InvalidArgument when the bytes are not those that the digest names.
    """
    stored = await manifest(blobs, prefix)
    for file in stored.files:
        path = path_inside(folder, file.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        await blobs.download(file_key(prefix, file.path), path)
    wanted, found = digest or stored.digest, (await asyncio.to_thread(describe, folder)).digest
    if found != wanted:
        raise InvalidArgument(f"the files under {prefix} have the digest {found}, not {wanted}: they were damaged")


async def delete(blobs: Blobs, prefix: str) -> None:
    """Remove a stored folder, or all of them under a prefix that ends with no slash. Idempotent. Raises Unavailable."""
    for key in manifests_first([listed.key async for listed in blobs.list(f"{prefix}/")]):
        await blobs.delete(key)


def manifests_first(keys: Iterable[str]) -> list[str]:
    """The order in which to delete them: no reader takes what is left for a whole folder."""
    return sorted(keys, key=lambda key: not key.endswith(_MANIFEST))
