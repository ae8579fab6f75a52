"""A small service in a process of its own: `python -m tests.worlds.rpc_server`, settings from the environment."""

import asyncio
from pathlib import Path

from millstream.dataset.v1.dataset_service_pb2_grpc import add_DatasetServiceServicer_to_server
from servicekit.blobs.memory import MemoryBlobs
from servicekit.bus.memory import MemoryBus
from servicekit.logs import setup_logs
from servicekit.runtime.serve import GrpcService, serve
from servicekit.runtime.settings import Settings
from tests.worlds.rpc import CONTRACT, Service


async def crash(when: Path) -> None:
    while not when.exists():
        await asyncio.sleep(0.01)
    raise ValueError("this background task has a bug")


async def main() -> None:
    settings = Settings.read()
    setup_logs("dataprep", settings.log_level)
    part = GrpcService(CONTRACT, add_DatasetServiceServicer_to_server, Service())
    background = [crash(Path(settings.recipes))]
    await serve(settings, "dataprep", [part], blobs=MemoryBlobs(), bus=MemoryBus(), background=background)


if __name__ == "__main__":
    asyncio.run(main())
