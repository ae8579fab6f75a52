"""The settings of inference in addition to those of all services."""

from pydantic import Field

from millstream.defaults import address, metrics_address
from recipekit.text_limits import LONGEST_TEXT
from servicekit.runtime import settings


class Settings(settings.Settings):
    """The defaults suit one machine without an accelerator."""

    listen: str = Field(address("inference"), description="host:port of the gRPC server")
    metrics_listen: str = Field(metrics_address("inference"), description="host:port of /metrics; empty: no metrics")
    registry: str = Field(
        address("registry"), description="host:port of registry; several replicas separated by commas"
    )
    cache: str = Field(
        ".millstream/cache/inference", description="folder for fetched artifacts; processes may share it"
    )
    cache_keep_seconds: float = Field(
        3600.0, ge=0, description="seconds that an artifact stays there after it was last served"
    )
    batch_tokens: int = Field(8192, ge=1, description="most tokens of one batch, padding included")
    batch_rows: int = Field(256, ge=1, description="most rows of one batch")
    queue_tokens: int = Field(262144, ge=1, description="most tokens queued for one version; more is refused")
    queue_requests: int = Field(1024, ge=1, description="most requests in flight on one version; more is refused")
    queue_characters: int = Field(
        4_194_304, ge=1, description="most characters of all requests in flight on one version; more is refused"
    )
    longest_text: int = Field(
        LONGEST_TEXT, ge=1, description="most characters of one text; a longer one is refused. Give dataprep the same"
    )
    prepare_threads: int = Field(2, ge=1, description="threads that check and tokenise requests")
    load_limit_seconds: float = Field(
        300.0,
        gt=0,
        description="seconds after which a load no longer keeps others waiting, and after which an unfinished load of "
        "another container counts as one that killed its process",
    )
