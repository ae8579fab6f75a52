"""What dataprep stores, and how long."""

import logging
from collections.abc import Sequence
from functools import partial

from millstream.errors import DataLoss, NotFound
from servicekit.blobs.port import Listed
from servicekit.work.storage import ATTEMPTS_SECONDS, Kind, of_ended
from services.dataprep.store import Store

log = logging.getLogger(__name__)


def kinds(store: Store, keep_uploads_seconds: float) -> list[Kind]:
    """Rows and snapshots are kept; an uploaded file, and the attempts at its import, go once that has ended."""

    async def of_imports(old: Sequence[Listed]) -> list[str]:
        return await of_ended(old, _import_of, lambda owner: store.has_ended(*owner.split("/")))

    return [
        Kind("uploads", ("uploads/*",), keep_uploads_seconds, partial(unused_uploads, store)),
        Kind("rows", ("datasets/*/parts/*",)),
        Kind("import-attempts", ("datasets/*/attempts/**",), ATTEMPTS_SECONDS, of_imports),
        Kind("imports", ("datasets/*/imports/*", "datasets/*/outcomes/*")),
        Kind("snapshots", ("datasets/*/ledger/*", "datasets/*/spec/*", "ledger-blocks/datasets/**")),
    ]


def _import_of(key: str) -> str:
    """`datasets/{dataset}/attempts/{request_id}/…` → `{dataset}/{request_id}`."""
    _, dataset, _, request_id, *_ = key.split("/")
    return f"{dataset}/{request_id}"


async def unused_uploads(store: Store, old: Sequence[Listed]) -> list[str]:
    """Of these uploads those that no import needs that has not ended.

    All imports are compared for it, since one without a marker of open work needs its upload, too. An upload that was
    stored again meanwhile belongs to an import that is about to be recorded. That import goes on with the file that its
    replica has on disk, should the same upload come between the last look at it and its deletion.
    """
    wanted = set()
    for dataset in await store.names():
        for request_id in await store.compare(dataset):
            try:
                wanted.add(f"uploads/{(await store.requested(dataset, request_id)).source.digest}")
            except NotFound:
                continue  # a key may be listed that was never stored (see Blobs.list)
            except DataLoss as error:
                log.warning("no upload is deleted: nobody knows which one is needed", extra={"error": error.text})
                return []
    free = [listed for listed in old if listed.key not in wanted]
    return [listed.key for listed in free if [one async for one in store.blobs.list(listed.key)] == [listed]]
