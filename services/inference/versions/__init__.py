"""The versions in memory: which alias is answered by which, and how one is loaded."""
