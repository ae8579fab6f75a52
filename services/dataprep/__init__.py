"""From files to snapshots."""
