"""Wiring of the evaluator: `python -m services.evaluator`."""

import asyncio
import sys

from millstream.channel import open_channel
from millstream.dataset.v1.dataset_service_pb2_grpc import DatasetServiceStub
from millstream.evaluation.v1.evaluation_service_pb2 import DESCRIPTOR
from millstream.evaluation.v1.evaluation_service_pb2_grpc import (
    add_EvaluationServiceServicer_to_server as add_to_server,
)
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from recipekit.catalog import Catalog
from servicekit.blobs.artifact_cache import ArtifactCache
from servicekit.facts.outbox import Outbox
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Work
from servicekit.work.storage import Storage
from services.evaluator.clients import Clients
from services.evaluator.evaluate import Evaluator
from services.evaluator.handlers import HANDLERS
from services.evaluator.reconcile import Evaluate, FindChallengers
from services.evaluator.service import EvaluationService
from services.evaluator.settings import Settings
from services.evaluator.storage import kinds
from services.evaluator.store import FACTS, Store

CONTRACT = DESCRIPTOR.services_by_name["EvaluationService"]


async def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.read(sys.argv[1:])
    setup_logs("evaluator", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "evaluator", FACTS)
    store = Store(blobs, outbox)
    registry = RegistryServiceStub(open_channel(settings.registry, settings.credentials()))
    dataprep = DatasetServiceStub(open_channel(settings.dataprep, settings.credentials()))
    clients = Clients(registry, dataprep)
    cache, catalog = ArtifactCache(blobs, settings.cache), Catalog(settings.recipes.split(","))
    limit_seconds = settings.measure_limit_seconds
    evaluator = Evaluator(blobs, clients, cache, settings.cache_artifacts, catalog, limit_seconds)
    work = Work(
        blobs,
        bus,
        "evaluator",
        HANDLERS,
        resync_seconds=settings.resync_seconds,
        full_resync_seconds=settings.full_resync_seconds,
    )
    work.register(Evaluate(store, clients, evaluator, settings.lease_seconds), FindChallengers(store, clients, work))
    grpc_service = GrpcService(CONTRACT, add_to_server, EvaluationService(store, clients, work))
    storage = Storage(blobs, "evaluator", kinds(blobs), settings.full_resync_seconds)
    await serve(settings, "evaluator", [grpc_service], blobs=blobs, bus=bus, work=work, outbox=outbox, storage=storage)


if __name__ == "__main__":
    asyncio.run(main())
