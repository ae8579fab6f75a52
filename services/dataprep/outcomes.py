"""How an import ended, as the message that is stored and shown."""

from millstream.dataset.v1.dataset_pb2 import Snapshot, Source
from millstream.dataset.v1.import_pb2 import Import, ImportChanges
from millstream.timestamps import now
from servicekit.facts.ledger import Entry
from services.dataprep.pipeline.ingest import Ingested
from services.dataprep.store import to_snapshot


def ended(requested: Import, before: Snapshot | None, entry: Entry[Snapshot], made: Ingested) -> Import:
    """Succeeded with the snapshot of the entry, or unchanged where the entry is another import's."""
    snapshot = to_snapshot(entry)
    own = snapshot.request_id == requested.request_id
    return extended(
        requested,
        Import(
            state=Import.STATE_SUCCEEDED if own else Import.STATE_UNCHANGED,
            rows_read=made.rows.read - made.rows.carried,
            changes=_changes(before, made),
            source=Source(dialect=made.dialect),
            file=made.file,
            snapshot_number=snapshot.number,
            snapshot_id=snapshot.snapshot_id,
            end_time=now(),
        ),
    )


def refused(requested: Import, reason: str, rows_read: int = 0) -> Import:
    """Refused, with the reason and what to do."""
    return extended(requested, Import(state=Import.STATE_REFUSED, refusal=reason, rows_read=rows_read, end_time=now()))


def extended(requested: Import, more: Import) -> Import:
    """A copy of the import with the fields of `more`."""
    found = Import()
    found.CopyFrom(requested)
    found.MergeFrom(more)
    return found


def _changes(before: Snapshot | None, made: Ingested) -> ImportChanges:
    earlier = before.rows.kept if before else 0
    # Two earlier rows may be one by now, if the recipe has named other identity columns.
    added = max(0, made.rows.kept - made.same)
    return ImportChanges(
        rows_before=earlier, rows_after=made.rows.kept, added=added, removed=max(0, earlier - made.same)
    )
