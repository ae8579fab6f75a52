"""Serves predictions from the versions that the models' aliases name."""
