"""Tunes the built-in model on data and needs of teams; needs the dependencies of `tuning`."""
