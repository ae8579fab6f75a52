"""Every variable that the evaluator reads."""

from pathlib import Path

from pydantic import Field

from millstream.defaults import address, metrics_address
from servicekit.runtime import settings


class Settings(settings.Settings):
    """`MILLSTREAM_…`, read once at start."""

    listen: str = Field(address("evaluator"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("evaluator"), description="host:port of /metrics; empty: no metrics")
    registry: str = Field(
        address("registry"), description="host:port of registry; several replicas separated by commas"
    )
    dataprep: str = Field(
        address("dataprep"), description="host:port of dataprep; several replicas separated by commas"
    )
    cache: Path = Field(Path(".millstream/cache/evaluator"), description="folder of downloaded artifacts")
    cache_artifacts: int = Field(6, ge=2, description="artifacts kept in the cache; the least recently used go first")
    measure_limit_seconds: float = Field(
        3600.0,
        gt=0,
        description="seconds after which an unfinished measurement is ended and counts as a failed attempt",
    )
    lease_seconds: float = Field(
        10.0, gt=0, description="seconds without a heartbeat after which another replica's lease expires"
    )
