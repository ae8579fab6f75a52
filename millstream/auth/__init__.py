"""Generated from protos/millstream/auth by `make protos`."""
