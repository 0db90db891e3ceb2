"""Matching. Matrices here are small: with threads, BLAS is slower by far on shared cores."""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
