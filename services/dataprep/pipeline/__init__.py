"""From a file to the parts of a snapshot: read, clean, check, split, pack."""
