"""What the registry reads from its environment."""

from pydantic import Field

from servicekit.runtime.settings import Settings as Base


class Settings(Base):
    listen: str = Field("127.0.0.1:50054", description="host:port of the gRPC server")
    metrics_listen: str = Field("127.0.0.1:9104", description="host:port of /metrics; empty shows none")
    trainer: str = Field("127.0.0.1:50052", description="host:port of trainer, several with commas between")
    evaluator: str = Field("127.0.0.1:50053", description="host:port of evaluator, several with commas between")
