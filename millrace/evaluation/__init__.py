"""Generated from protos/millrace/evaluation by `make protos`."""
