"""What stays stored once nobody needs it."""
