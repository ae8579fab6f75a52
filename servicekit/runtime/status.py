"""The status of one replica, from the last results of its parts. Nothing here waits."""

import time
from dataclasses import dataclass, field

from millstream.operations.v1.service_status_pb2 import ConsumerStatus, OutboxStatus, ServiceStatus, StoredKind
from millstream.timestamps import duration, timestamp
from servicekit.build_info import BuildInfo
from servicekit.facts.outbox import Outbox
from servicekit.rpc.health import Health
from servicekit.runtime.probes import DependencyProbe
from servicekit.work.consumer import Consumer
from servicekit.work.damage import Damage
from servicekit.work.storage import Storage, Stored


@dataclass
class Status:
    """The parts of a replica that have something to report; `started` is in seconds since 1970."""

    service: str
    health: Health
    blobs: DependencyProbe
    bus: DependencyProbe
    consumer: Consumer | None = None
    outbox: Outbox | None = None
    damage: Damage | None = None
    storage: Storage | None = None
    started: float = field(default_factory=time.time)

    def message(self, build: BuildInfo) -> ServiceStatus:
        """The status now, as GetStatus returns it."""
        status = ServiceStatus(
            service=self.service,
            commit=build.commit,
            dirty=build.dirty,
            start_time=timestamp(self.started),
            ready=bool(self.health.ready),
            not_ready_reason=self.health.reason,
            blobs=self.blobs.message(),
            bus=self.bus.message(),
        )
        if self.damage:
            status.damaged.extend(self.damage.texts())
        if self.consumer and self.consumer.topics:
            status.consumer.CopyFrom(_consumer(self.consumer))
        if self.outbox:
            outbox = self.outbox
            status.outbox.CopyFrom(
                OutboxStatus(pending=outbox.pending, problem=outbox.incident.problem, parked=outbox.parked)
            )
        if self.storage and self.storage.listed_at:
            status.storage_time.CopyFrom(timestamp(self.storage.listed_at))
            status.storage.extend(map(_stored_kind, self.storage.stored.values()))
        return status


def _consumer(consumer: Consumer) -> ConsumerStatus:
    status = ConsumerStatus(lag=consumer.lag, problem=consumer.incident.problem, flood=consumer.flood)
    if consumer.last_read:
        status.last_read_time.CopyFrom(timestamp(consumer.last_read))
    return status


def _stored_kind(stored: Stored) -> StoredKind:
    kind = StoredKind(
        kind=stored.kind.name,
        objects=stored.total.objects,
        size_bytes=stored.total.size_bytes,
        deleted_objects=stored.deleted.objects,
        deleted_bytes=stored.deleted.size_bytes,
    )
    if stored.kind.keep_seconds is not None:
        kind.keep.CopyFrom(duration(stored.kind.keep_seconds))
    return kind
