"""One input, or one neighbour, stops nobody: well-behaved callers beside one attacker after the other."""
