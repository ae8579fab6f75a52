"""Settings of the registry, read from MILLSTREAM_* variables."""

from pydantic import Field

from millstream.defaults import address, metrics_address
from servicekit.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of the registry."""

    listen: str = Field(address("registry"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("registry"), description="host:port of /metrics; empty: no metrics")
    trainer: str = Field(address("trainer"), description="host:port of trainer; several replicas separated by commas")
    evaluator: str = Field(
        address("evaluator"), description="host:port of evaluator; several replicas separated by commas"
    )
