"""Objects in buckets: one client of the store, and paths that read like those of a disk."""
