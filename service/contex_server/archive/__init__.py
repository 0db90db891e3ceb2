"""Old events in object storage: segments, and a log that reads across them and the store."""
