"""Measures Contex against the ceilings of what it is built on; see README.md."""

import os

# Before grpc is imported: cancelled streams are no news here.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
