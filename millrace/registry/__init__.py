"""Generated from protos/millrace/registry by `make protos`."""
