"""Every variable that the trainer reads, in addition to those of all services."""

from pydantic import Field

from millstream.defaults import address, metrics_address
from servicekit.runtime.settings import Settings as Base
from servicekit.work.storage import LONGEST_KEEP_SECONDS
from services.trainer.launchers.devices import AUTO
from services.trainer.worker.settings import WorkerSettings


class Settings(Base):
    """`MILLSTREAM_…`, read once at start."""

    listen: str = Field(address("trainer"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("trainer"), description="host:port of /metrics; empty: no metrics")
    dataprep: str = Field(
        address("dataprep"), description="host:port of dataprep; several replicas separated by commas"
    )
    registry: str = Field(
        address("registry"), description="host:port of registry; several replicas separated by commas"
    )
    slots: int = Field(1, ge=1, description="how many workers this replica runs at once")
    gpus: str = Field(
        AUTO,
        description="GPUs that workers take turns on, as CUDA_VISIBLE_DEVICES names them; auto: all of the machine; "
        "empty: none, workers train on the processor",
    )
    lease_seconds: float = Field(
        30.0,
        gt=0,
        description="seconds without a heartbeat after which a worker's lease expires, and the worker is ended",
    )
    stop_seconds: float = Field(
        45.0,
        gt=0,
        description="seconds that a worker has to save a checkpoint and end after SIGTERM; then it gets SIGKILL",
    )
    time_limit_seconds: float = Field(86400.0, gt=0, description="training time of a run that sets no limit")
    keep_checkpoints_seconds: float = Field(
        0.0,
        ge=0,
        le=LONGEST_KEEP_SECONDS,
        description="how long checkpoints are kept, at least, of a run that has ended; nothing resumes from them",
    )
    keep_logs_seconds: float = Field(
        30 * 86400.0,
        ge=0,
        le=LONGEST_KEEP_SECONDS,
        description="how long the log of a run is kept, at least, once it has ended",
    )
    require_exact: bool = Field(
        False,
        description="fail a run that resumes on another kind of processor, with other packages or with other code",
    )
    state: str = Field(".millstream", description="folder for the workers' files on this machine")

    def worker_environment(self) -> dict[str, str]:
        """The environment variables of a worker, with the trainer's own values."""
        return {variable.name: str(self.value(variable)) for variable in WorkerSettings.variables()}
