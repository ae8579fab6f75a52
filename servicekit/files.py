"""Files that settings name."""

from pathlib import Path


def read_file(path: str) -> bytes:
    """A file that a setting names; without it the process ends, saying so."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {path}: {error.strerror}") from None
