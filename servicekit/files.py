"""Files that settings name."""

from pathlib import Path


def read_file(path: str) -> bytes:
    """The bytes of a file that a setting names. Ends the process when it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {path}: {error.strerror}") from None
