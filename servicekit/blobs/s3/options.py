"""Options of an S3 store (`MILLSTREAM_MINIO_…`).

Secrets stay in files, which are read again (credentials.py): a rotated secret needs no restart.
"""

from pydantic import BaseModel, ConfigDict, Field


class MinioOptions(BaseModel):
    """Credentials for the store, the authorities to trust, and whether a missing bucket is created."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    access_key_file: str = Field("", description="file with the access key of the S3 store")
    secret_key_file: str = Field("", description="file with its secret key")
    ca_file: str = Field("", description="PEM authorities for the S3 store; empty trusts the system's")
    region: str = Field("us-east-1", description="region of the S3 store")
    create_bucket: bool = Field(True, description="create the bucket if it is missing; false: it must exist")
