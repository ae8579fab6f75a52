"""What one replica knows about itself, put together from the evidence that its parts keep. Nothing here waits."""

import time
from dataclasses import dataclass, field

from millstream.operations.v1.service_status_pb2 import ConsumerStatus, OutboxStatus, ServiceStatus
from millstream.timestamps import timestamp
from servicekit.build_info import Code
from servicekit.facts.outbox import Outbox
from servicekit.rpc.health import Health
from servicekit.runtime.probes import DependencyProbe
from servicekit.work.consumer import Consumer


@dataclass
class Status:
    service: str
    health: Health
    blobs: DependencyProbe
    bus: DependencyProbe
    consumer: Consumer | None = None
    outbox: Outbox | None = None
    started: float = field(default_factory=time.time)

    def message(self, code: Code) -> ServiceStatus:
        status = ServiceStatus(
            service=self.service,
            commit=code.commit,
            dirty=code.dirty,
            start_time=timestamp(self.started),
            ready=bool(self.health.ready),
            not_ready_reason=self.health.reason,
            blobs=self.blobs.message(),
            bus=self.bus.message(),
        )
        if self.consumer and self.consumer.topics:
            status.consumer.CopyFrom(_consumer(self.consumer))
        if self.outbox:
            outbox = self.outbox
            status.outbox.CopyFrom(
                OutboxStatus(pending=outbox.pending, problem=outbox.incident.text, parked=outbox.parked)
            )
        return status


def _consumer(consumer: Consumer) -> ConsumerStatus:
    status = ConsumerStatus(lag=consumer.lag, problem=consumer.incident.text, stopped_reason=consumer.flooded)
    if consumer.last_read:
        status.last_read_time.CopyFrom(timestamp(consumer.last_read))
    return status
