"""How a worker is started: a port, and child processes as its first adapter."""
