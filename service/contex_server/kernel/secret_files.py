"""Files and directories that only their owner may read."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def create_secret(path: Path, content: bytes) -> bool:
    """Makes a file for its owner only, on disk when this returns; whoever comes first makes it.

    Returns:
        Whether it was made; False if it was there.

    Raises:
        OSError: It can't be made.
    """
    if path.exists():
        return False
    private_directory(path.parent)
    descriptor, partial = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content + b"\n")
        file.flush()
        os.fsync(file.fileno())
    made = False
    with suppress(FileExistsError):
        os.link(partial, path)
        made = True
    os.unlink(partial)
    _sync_directory(path.parent)
    return made


def private_directory(path: Path) -> None:
    """Makes a directory for its owner only, unless it is there.

    Raises:
        OSError: It can't be made.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)


def _sync_directory(path: Path) -> None:
    """Puts the names in a directory on disk: nothing must outlive the secret that it needs."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
