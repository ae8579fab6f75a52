"""What each version wrote, kept for good; every later version must read it (docs/adr/0014)."""
