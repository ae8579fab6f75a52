"""The versions in memory: which alias is served by which, and how one is loaded."""
