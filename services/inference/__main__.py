"""Starts the service: wiring only."""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from millstream.channel import open_channel
from millstream.inference.v1.inference_service_pb2 import DESCRIPTOR
from millstream.inference.v1.inference_service_pb2_grpc import add_InferenceServiceServicer_to_server as add_to_server
from millstream.registry.v1.registry_service_pb2_grpc import RegistryServiceStub
from recipekit.catalog import Catalog
from servicekit.logs import setup_logs
from servicekit.rpc.health import Health
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Work
from servicekit.work.storage import Storage
from services.inference.doors.native import InferenceService
from services.inference.engine.queue import Limits
from services.inference.handlers import HANDLERS
from services.inference.predictions import Predictions
from services.inference.pruning import PruneCache
from services.inference.reconcile import ServeModel
from services.inference.retries import Retries
from services.inference.settings import Settings
from services.inference.storage import KINDS
from services.inference.store import Store
from services.inference.versions.loader import Loader
from services.inference.versions.serving import Serving

CONTRACT = DESCRIPTOR.services_by_name["InferenceService"]


async def main() -> None:
    """Serve until SIGTERM."""
    settings = Settings.read(sys.argv[1:])
    setup_logs("inference", settings.log_level)
    blobs, bus = open_both(settings)
    store = Store(blobs, settings.load_limit_seconds)
    registry = RegistryServiceStub(open_channel(settings.registry, settings.credentials()))
    cache, catalog = Path(settings.cache), Catalog(settings.recipes.split(","))
    limits = Limits(
        settings.batch_tokens,
        settings.batch_rows,
        settings.queue_tokens,
        settings.queue_requests,
        settings.queue_characters,
        settings.longest_text,
    )
    prepare_pool = ThreadPoolExecutor(settings.prepare_threads, thread_name_prefix="prepare")
    serving, health = Serving(), Health()
    loader = Loader(blobs, store, catalog, cache, limits, prepare_pool)
    models = ServeModel(registry, store, loader, serving, bus, health.set)
    pruning = PruneCache(loader.cache, serving, settings.cache_keep_seconds)
    work = Work(
        blobs,
        bus,
        "inference",
        HANDLERS,
        resync_seconds=settings.resync_seconds,
        full_resync_seconds=settings.full_resync_seconds,
        broadcast=True,
    )
    work.register(models, pruning)
    grpc_service = GrpcService(
        CONTRACT, add_to_server, InferenceService(Predictions(serving), Retries(registry, store, serving, work))
    )
    storage = Storage(blobs, "inference", KINDS, settings.full_resync_seconds)
    await serve(settings, "inference", [grpc_service], blobs=blobs, bus=bus, work=work, health=health, storage=storage)


if __name__ == "__main__":
    asyncio.run(main())
