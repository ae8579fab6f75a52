"""Every variable that a training worker reads, in addition to those of all services."""

from pydantic import Field

from servicekit.runtime.settings import Settings as Base


class WorkerSettings(Base):
    """`MILLSTREAM_…`, read once at start; the trainer hands them on to its workers."""

    lease_seconds: float = Field(
        30.0, gt=0, description="seconds without a heartbeat after which another worker's lease expires"
    )
    require_exact: bool = Field(
        False,
        description="fail a run that resumes on another kind of processor, with other packages or with other code",
    )
    state: str = Field(".millstream", description="folder for the workers' files on this machine")
