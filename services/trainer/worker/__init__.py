"""Trains one run: a deployable of its own, started by the trainer. Nobody imports it."""
