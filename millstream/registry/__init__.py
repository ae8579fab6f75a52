"""Generated from protos/millstream/registry by `make protos`."""
