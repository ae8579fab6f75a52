"""The whole flow, from outside: gRPC, the command line and the processes."""
