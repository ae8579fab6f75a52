"""Generated from protos/millrace/operations/v1 by `make protos`."""
