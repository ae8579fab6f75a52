"""Generated from protos/millstream/evaluation by `make protos`."""
