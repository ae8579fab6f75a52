"""Settings of dataprep, read from MILLSTREAM_* variables."""

from pathlib import Path

from pydantic import Field

from millstream.defaults import address, metrics_address
from recipekit.text_limits import LONGEST_TEXT
from servicekit.runtime.settings import Settings as Base
from servicekit.work.storage import LONGEST_KEEP_SECONDS


class Settings(Base):
    """Settings of dataprep."""

    listen: str = Field(address("dataprep"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("dataprep"), description="host:port of /metrics; empty: no metrics")
    upload_limit_bytes: int = Field(1 << 30, gt=0, description="most bytes of an uploaded file")
    unpacked_limit_bytes: int = Field(4 << 30, gt=0, description="most bytes of an uploaded file once unpacked")
    import_slots: int = Field(2, ge=1, description="imports that this replica runs at once; the others wait in order")
    uploads_at_once: int = Field(64, ge=1, description="files that this replica receives at once; more are refused")
    upload_pause_seconds: float = Field(
        60.0, gt=0, description="seconds without a message after which an unfinished upload is refused"
    )
    keep_uploads_seconds: float = Field(
        7 * 86400.0,
        ge=3600,
        le=LONGEST_KEEP_SECONDS,
        description="how long an uploaded file is kept, at least, once its import has ended; an hour or more, since an "
        "upload is stored before its import is recorded",
    )
    state: Path = Field(
        Path(".millstream"), description="folder for received files and imports on this machine; replicas may share it"
    )
    lease_seconds: float = Field(
        10.0, gt=0, description="seconds without a heartbeat after which another replica's lease expires"
    )
    longest_text: int = Field(
        LONGEST_TEXT,
        gt=0,
        description="most characters of one text of a row; a row with a longer one goes to quarantine. Give inference the "
        "same",
    )
