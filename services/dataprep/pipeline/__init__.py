"""From a file to the parts of a snapshot: read, clean, check by the rules, split, write."""
