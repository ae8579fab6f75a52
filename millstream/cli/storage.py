"""What `millstream status --storage` shows: the stored objects of each service, by kind."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration

from millstream.cli.format import when
from millstream.cli.output import Cells, Screen, as_dict, table, write
from millstream.operations.v1.service_status_pb2 import ServiceStatus, StoredKind
from millstream.timestamps import seconds_of

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def show(screen: Screen, replicas: Iterable[ServiceStatus]) -> None:
    """Print what the services have stored, each as its replica with the newest listing reports it."""
    newest: dict[str, ServiceStatus] = {}
    for status in sorted(replicas, key=lambda status: seconds_of(status.storage_time)):
        newest[status.service] = status
    found = sorted(newest.values(), key=lambda status: status.service)
    if screen.as_json:
        screen.many([_document(status) for status in found], dict)
        return
    kinds = [
        (status.service, kind) for status in found for kind in status.storage if kind.objects or kind.deleted_objects
    ]
    table([_cells(service, kind) for service, kind in sorted(kinds, key=lambda one: -one[1].size_bytes)])
    write(_summary(found))


def _document(status: ServiceStatus) -> dict[str, Any]:
    document = as_dict(status)
    return {name: document[name] for name in ("service", "storage_time", "storage") if name in document}


def _summary(found: Sequence[ServiceStatus]) -> str:
    listed = [status for status in found if status.storage_time.seconds]
    total = sum(kind.size_bytes for status in listed for kind in status.storage)
    waiting = [status.service for status in found if not status.storage_time.seconds]
    lines = [f"{size(total)} in all, listed at {when(listed[0].storage_time)}"] if listed else []
    if waiting:
        lines.append(f"not listed yet by {', '.join(waiting)}: ask again a minute after its start")
    return "\n".join(lines)


def _cells(service: str, kind: StoredKind) -> Cells:
    return {
        "service": service,
        "kind": kind.kind,
        "objects": f"{kind.objects:,}",
        "size": size(kind.size_bytes),
        "kept": _kept(kind.keep) if kind.HasField("keep") else "for ever",
        "deleted": size(kind.deleted_bytes) if kind.deleted_objects else "-",
    }


def _kept(keep: Duration) -> str:
    seconds = seconds_of(keep)
    for unit, name in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= unit:
            number = f"{seconds / unit:.3g}"
            return f"at least {number} {name}{'' if number == '1' else 's'}"
    return "while needed"


def size(size_bytes: int) -> str:
    """Bytes in the largest unit that leaves a whole one: `532 B`, `1.2 MB`."""
    value = float(size_bytes)
    for unit in _UNITS[:-1]:
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"
