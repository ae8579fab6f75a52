"""Runs trainings in workers, and starts them by itself where a model asks for it."""
