"""The protocols that callers speak: each door parses requests into rows and formats results, and does nothing else."""
