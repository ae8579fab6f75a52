"""Options of an S3 store.

Secrets are read from their files at each connection, so a rotated secret needs no restart.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class MinioOptions:
    """Who we are to an S3 store, and whom we trust."""

    access_key_file: str = ""
    secret_key_file: str = ""
    ca_file: str = ""
    """PEM authorities; empty trusts those of the system."""
    region: str = "us-east-1"
    create_bucket: bool = True
