"""Generated from protos/millstream/inference/v1 by `make protos`."""
