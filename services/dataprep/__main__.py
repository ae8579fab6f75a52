"""Starts dataprep: opens its parts and serves DatasetService."""

import asyncio
import sys

from millstream.dataset.v1.dataset_service_pb2 import DESCRIPTOR
from millstream.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server as add_to_server
from recipekit.catalog import Catalog
from servicekit.facts.outbox import Outbox
from servicekit.files import scratch_folder
from servicekit.logs import setup_logs
from servicekit.runtime.backends import open_both
from servicekit.runtime.serve import GrpcService, serve
from servicekit.work.queue import Work
from servicekit.work.storage import Storage
from services.dataprep.handlers import HANDLERS
from services.dataprep.reconcile import EndImport
from services.dataprep.service import DatasetService
from services.dataprep.settings import Settings
from services.dataprep.storage import kinds
from services.dataprep.store import FACTS, Store
from services.dataprep.uploads import Uploads

CONTRACT = DESCRIPTOR.services_by_name["DatasetService"]


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = Settings.read(sys.argv[1:])
    setup_logs("dataprep", settings.log_level)
    blobs, bus = open_both(settings)
    outbox = Outbox(blobs, bus, "dataprep", FACTS)
    store, catalog = Store(blobs, outbox), Catalog(settings.recipes.split(","))
    with scratch_folder(settings.state / "scratch") as folder:
        at_once, pause = settings.uploads_at_once, settings.upload_pause_seconds
        uploads = Uploads(folder, settings.upload_limit_bytes, at_once=at_once, pause_seconds=pause)
        slots = settings.import_slots
        limit, lease = settings.unpacked_limit_bytes, settings.lease_seconds
        work = Work(
            blobs,
            bus,
            "dataprep",
            HANDLERS,
            resync_seconds=settings.resync_seconds,
            full_resync_seconds=settings.full_resync_seconds,
            workers=slots,
        )
        imports = EndImport(store, catalog, uploads, work, limit, slots, lease, settings.longest_text)
        work.register(imports)
        service = DatasetService(store, catalog, uploads, imports, work)
        grpc_service = GrpcService(CONTRACT, add_to_server, service)
        storage = Storage(blobs, "dataprep", kinds(store, settings.keep_uploads_seconds), settings.full_resync_seconds)
        await serve(
            settings, "dataprep", [grpc_service], blobs=blobs, bus=bus, work=work, outbox=outbox, storage=storage
        )


if __name__ == "__main__":
    asyncio.run(main())
