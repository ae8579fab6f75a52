"""Starts the registry: opens its parts and serves RegistryService."""

import asyncio
import sys

from millstream.channel import open_channel
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.registry.v1.registry_service_pb2 import DESCRIPTOR
from millstream.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server as add_to_server
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub
from recipekit.catalog import Catalog
from servicekit.facts.outbox import Outbox
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Work
from servicekit.work.storage import Storage
from services.registry.handlers import HANDLERS
from services.registry.reconcile import Promote, RegisterVersion
from services.registry.service import RegistryService
from services.registry.settings import Settings
from services.registry.storage import KINDS
from services.registry.store import FACTS, Store

CONTRACT = DESCRIPTOR.services_by_name["RegistryService"]


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings.read(sys.argv[1:])
    setup_logs("registry", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "registry", FACTS)
    store = Store(blobs, outbox)
    trainer = TrainingServiceStub(open_channel(settings.trainer, settings.credentials()))
    evaluator = EvaluationServiceStub(open_channel(settings.evaluator, settings.credentials()))
    work = Work(
        blobs,
        bus,
        "registry",
        HANDLERS,
        resync_seconds=settings.resync_seconds,
        full_resync_seconds=settings.full_resync_seconds,
    )
    catalog = Catalog(settings.recipes.split(","))
    work.register(RegisterVersion(store, trainer), Promote(store, evaluator, catalog))
    service = RegistryService(store, evaluator, catalog)
    grpc_service = GrpcService(CONTRACT, add_to_server, service)
    storage = Storage(blobs, "registry", KINDS, settings.full_resync_seconds)
    await serve(settings, "registry", [grpc_service], blobs=blobs, bus=bus, work=work, outbox=outbox, storage=storage)


if __name__ == "__main__":
    asyncio.run(main())
