"""Generated from protos/millstream/operations by `make protos`."""
