"""Evaluates every model version and says whether it may be promoted."""
