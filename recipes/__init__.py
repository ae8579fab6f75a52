"""Only recipe folders: `ls recipes` is the list."""
