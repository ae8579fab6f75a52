"""Generated from protos/millrace/registry/v1 by `make protos`."""
