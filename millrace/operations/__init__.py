"""Generated from protos/millrace/operations by `make protos`."""
