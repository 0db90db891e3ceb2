"""Where files are written to."""

from __future__ import annotations

import os
from pathlib import Path


def replaced_file(path: str | os.PathLike[str]) -> Path | None:
    """The regular file that a rename may make or replace; a symlink leads to its target.

    None for what must be written into as it is: a rename over a device or a pipe would turn it
    into a file. A directory is left to the error that opening it gives.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        return None
    return Path(os.path.realpath(path))
