"""A real Kafka broker and a real MinIO as processes of this machine: for tests, demos and trying things out."""
