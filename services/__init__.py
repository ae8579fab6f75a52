"""The deployables: one folder, one image, one manifest, one dependency group."""
