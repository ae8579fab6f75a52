"""The protocols in which callers ask: each door translates to rows and back, and does nothing else."""
