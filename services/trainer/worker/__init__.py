"""Trains one run: a deployable of its own, started by the trainer. No other package imports it."""
