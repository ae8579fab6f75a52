"""Generated from protos/millstream/dataset/v1 by `make protos`."""
