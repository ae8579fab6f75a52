"""Generated from protos/millrace/training by `make protos`."""
