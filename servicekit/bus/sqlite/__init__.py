"""The event bus in a SQLite file, for one machine."""
