"""Generated from protos/millstream/training by `make protos`."""
