"""Generated from protos/millstream/registry/v1 by `make protos`."""
