"""One folder for each package: logic without I/O and without torch."""
