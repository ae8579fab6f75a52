"""The event bus: the port and its adapters."""
