"""Wiring only."""

import asyncio
import sys
from pathlib import Path

from millstream.channel import open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from millstream.training.v1.training_service_pb2 import DESCRIPTOR
from millstream.training.v1.training_service_pb2_grpc import add_TrainingServiceServicer_to_server as add_to_server
from recipekit.catalog import Catalog
from servicekit.facts.outbox import Outbox
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Work
from servicekit.work.storage import Storage
from services.trainer.automatic import TrainAutomatically
from services.trainer.handlers import HANDLERS
from services.trainer.launchers.process import ProcessLauncher
from services.trainer.reconcile import BringToOutcome
from services.trainer.service import TrainingService
from services.trainer.settings import Settings
from services.trainer.storage import kinds
from services.trainer.store import FACTS, Store

CONTRACT = DESCRIPTOR.services_by_name["TrainingService"]


async def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.read(sys.argv[1:])
    setup_logs("trainer", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "trainer", FACTS)
    store = Store(blobs, outbox, settings.lease_seconds)
    registry = RegistryServiceStub(open_channel(settings.registry, settings.credentials()))
    dataprep = DatasetServiceStub(open_channel(settings.dataprep, settings.credentials()))
    environment, state = settings.worker_environment(), Path(settings.state)
    launcher = ProcessLauncher(state, settings.listen, environment, settings.stop_seconds, settings.gpus)
    work = Work(
        blobs,
        bus,
        "trainer",
        HANDLERS,
        resync_seconds=settings.resync_seconds,
        full_resync_seconds=settings.full_resync_seconds,
    )
    runs = BringToOutcome(
        store,
        launcher,
        work,
        slots=settings.slots,
        time_limit_seconds=settings.time_limit_seconds,
        keep_checkpoints_seconds=settings.keep_checkpoints_seconds,
    )
    work.register(runs, TrainAutomatically(store, registry, dataprep))
    service = TrainingService(store, launcher, registry, dataprep, Catalog(settings.recipes.split(",")))
    grpc_service = GrpcService(CONTRACT, add_to_server, service)
    storage = Storage(
        blobs,
        "trainer",
        kinds(store, settings.keep_checkpoints_seconds, settings.keep_logs_seconds),
        settings.full_resync_seconds,
    )
    await serve(settings, "trainer", [grpc_service], blobs=blobs, bus=bus, work=work, outbox=outbox, storage=storage)


if __name__ == "__main__":
    asyncio.run(main())
