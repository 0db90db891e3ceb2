"""Measures Contex against the ceilings of what it is built on; see README.md."""
