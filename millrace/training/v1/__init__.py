"""Generated from protos/millrace/training/v1 by `make protos`."""
