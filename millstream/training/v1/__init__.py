"""Generated from protos/millstream/training/v1 by `make protos`."""
