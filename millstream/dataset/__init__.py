"""Generated from protos/millstream/dataset by `make protos`."""
