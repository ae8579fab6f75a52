"""Generated from protos/millrace/evaluation/v1 by `make protos`."""
