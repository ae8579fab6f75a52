"""Generated from protos/millstream/inference by `make protos`."""
