"""The scenario with faults."""
