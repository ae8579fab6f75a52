"""Recipes that only tests use: the platform takes them through the same catalog as the real ones."""
