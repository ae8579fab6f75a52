"""Wiring only."""

import asyncio

from millstream.channel import open_channel
from millstream.evaluation.v1.evaluation_service_pb2_grpc import EvaluationServiceStub
from millstream.registry.v1.registry_service_pb2_grpc import add_RegistryServiceServicer_to_server
from millstream.training.v1.training_service_pb2_grpc import TrainingServiceStub
from recipekit.catalog import Catalog
from servicekit.facts.outbox import Outbox
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Reconciler, Work
from services.registry.handlers import HANDLERS
from services.registry.reconcile import Promote, RegisterVersion
from services.registry.service import RegistryService
from services.registry.settings import Settings
from services.registry.store import FACTS, Store


async def main() -> None:
    settings = Settings.read()
    setup_logs("registry", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "registry", FACTS)
    store = Store(blobs, outbox)
    trainer = TrainingServiceStub(open_channel(settings.trainer, settings.credentials()))
    evaluator = EvaluationServiceStub(open_channel(settings.evaluator, settings.credentials()))
    reconcilers: list[Reconciler] = [RegisterVersion(store, trainer), Promote(store, evaluator)]
    work = Work(blobs, bus, "registry", HANDLERS, reconcilers, resync_seconds=settings.resync_seconds)
    service = RegistryService(store, evaluator, Catalog(settings.recipes.split(",")))
    part = GrpcService("millstream.registry.v1.RegistryService", add_RegistryServiceServicer_to_server, service)
    await serve(settings, "registry", [part], blobs=blobs, bus=bus, work=work, outbox=outbox)


if __name__ == "__main__":
    asyncio.run(main())
