"""Generated from protos/millstream/operations/v1 by `make protos`."""
