"""Objects in buckets: the store of one bucket, and paths that read like those of a disk."""
