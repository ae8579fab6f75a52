"""Generated from protos/millrace/inference by `make protos`."""
