"""Contex beside other stores: the same bytes, writers and disk, fsync on; `make bench-peers`."""
