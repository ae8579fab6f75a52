"""Real data through the whole platform, by the command line alone."""
