"""Wiring only."""

import asyncio
from pathlib import Path

from millstream.channel import open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server
from recipekit.catalog import Catalog
from servicekit.facts.outbox import Outbox
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Reconciler, Work
from services.trainer.automatic import TrainAutomatically
from services.trainer.handlers import HANDLERS
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.reconcile import BringToOutcome
from services.trainer.service import TrainingService
from services.trainer.settings import Settings
from services.trainer.store import FACTS, Store


async def main() -> None:
    settings = Settings.read()
    setup_logs("trainer", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "trainer", FACTS)
    store = Store(blobs, outbox, settings.lease_seconds)
    registry = RegistryServiceStub(open_channel(settings.registry, settings.credentials()))
    dataprep = DatasetServiceStub(open_channel(settings.dataprep, settings.credentials()))
    launcher = ProcessLauncher(Path(settings.state), settings.listen, settings.worker_environment())
    runs = BringToOutcome(store, launcher, settings.slots, settings.time_limit_seconds)
    reconcilers: list[Reconciler] = [runs, TrainAutomatically(store, registry, dataprep)]
    work = Work(blobs, bus, "trainer", HANDLERS, reconcilers, resync_seconds=settings.resync_seconds)

    def worker_ended(run_id: str) -> None:
        for name in runs.worker_ended(run_id):
            work.add("run", name)
        outbox.sweep_soon()

    launcher.ended = worker_ended
    service = TrainingService(store, launcher, registry, dataprep, Catalog(settings.recipes.split(",")))
    part = GrpcService("millstream.training.v1.TrainingService", add_TrainingServiceServicer_to_server, service)
    await serve(settings, "trainer", [part], blobs=blobs, bus=bus, work=work, outbox=outbox)


if __name__ == "__main__":
    asyncio.run(main())
