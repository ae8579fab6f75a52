"""The contract that every adapter of a port passes, and the processes and proxies that the suites use."""
