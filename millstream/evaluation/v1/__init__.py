"""Generated from protos/millstream/evaluation/v1 by `make protos`."""
