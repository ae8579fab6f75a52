"""Generated from protos/millrace/inference/v1 by `make protos`."""
