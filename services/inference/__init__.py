"""Answers with the versions that the models' aliases name."""
