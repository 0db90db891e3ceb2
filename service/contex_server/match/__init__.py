"""Matching of projects, live and on request.

Whatever reads the log or encodes text here may raise a ContexError STORE_UNAVAILABLE or
EMBEDDER_UNAVAILABLE, which the methods' own "Raises" leave out.
"""
