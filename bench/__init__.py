"""Claims, one folder each, measured beside their peers."""
