"""Files that commands write: whole, or not at all."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from contex_server.cli.exits import InputError


@contextmanager
def written(file: str) -> Iterator[BinaryIO]:
    """Opens a file that gets its name when everything is in it; "-" is stdout.

    An error on the way leaves what had the name before.

    Raises:
        InputError: It can't be written.
    """
    if file == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.exists() and not path.is_file():  # a device, a pipe, or a directory: the error tells
        with _opened(path) as stream:
            yield stream
        return
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with _opened(part) as stream:
            yield stream
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("wb")
    except OSError as error:
        raise InputError(f"can't write {str(path)!r}: {error.strerror}") from None
