"""Generated from protos/millstream/auth/v1 by `make protos`."""
