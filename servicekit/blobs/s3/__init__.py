"""The object store in a bucket of MinIO or of another S3 store."""
