"""The object store: the port, its adapters, and the things of several objects that are kept in it."""
