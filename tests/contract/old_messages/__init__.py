"""What each version wrote, kept for ever; later versions must read it (docs/adr/0014)."""
