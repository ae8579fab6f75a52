"""Generated from protos/millrace/dataset by `make protos`."""
