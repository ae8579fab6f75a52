"""Settings of dataprep, read from MILLSTREAM_* variables."""

from pydantic import Field

from millstream.defaults import address, metrics_address
from recipekit.text_limits import LONGEST_TEXT
from servicekit.runtime.settings import Settings as Base


class Settings(Base):
    """Settings of dataprep."""

    listen: str = Field(address("dataprep"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("dataprep"), description="host:port of /metrics; empty: no metrics")
    upload_limit_bytes: int = Field(1 << 30, gt=0, description="most bytes of an uploaded file")
    unpacked_limit_bytes: int = Field(4 << 30, gt=0, description="most bytes of an uploaded file once unpacked")
    longest_text: int = Field(
        LONGEST_TEXT,
        gt=0,
        description="most characters of one text of a row; a row with a longer one goes to quarantine. Give inference the "
        "same",
    )
