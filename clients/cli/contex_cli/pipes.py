"""Reading what may be a pipe, so that Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from concurrent.futures import Future

from contex_cli.exits import InputError

_READ_BYTES = 256 * 1024


def open_source(source: str) -> int:
    """The descriptor of a file to read; "-" is stdin."""
    if source == "-":
        return sys.stdin.fileno()
    try:
        return os.open(source, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"can't read {source!r}: {error.strerror}") from None


async def read(descriptor: int) -> bytes:
    """Reads what there is, at most `_READ_BYTES`; empty at the end.

    In a daemon thread of its own: a pool's thread would have to be waited for after Ctrl-C, until
    somebody closes the pipe.
    """
    read: Future[bytes] = Future()
    read.set_running_or_notify_cancel()  # from now on only its thread settles it

    def work() -> None:
        try:
            read.set_result(os.read(descriptor, _READ_BYTES))
        except OSError as error:
            read.set_exception(InputError(f"can't read on: {error.strerror}"))

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(read)
