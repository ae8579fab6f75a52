"""Dataprep: turns files into snapshots of datasets."""
