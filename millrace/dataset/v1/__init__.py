"""Generated from protos/millrace/dataset/v1 by `make protos`."""
