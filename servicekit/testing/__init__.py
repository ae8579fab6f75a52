"""What tests of several services share: the suites that every adapter of a port passes, and buses that misbehave."""
