"""Inputs that no one means: every RPC, event type, importer input and file of the command line, made at random."""
