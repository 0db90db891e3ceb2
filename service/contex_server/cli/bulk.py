"""`contex publish --stream`: JSON lines into one publish stream, as they arrive."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contex_server.cli import options
from contex_server.cli.drafts import parse_line
from contex_server.cli.exits import ExitCode, InputError, complain, describe, exit_code
from contex_server.cli.output import print_json, print_line
from contex_server.cli.progress import Progress

if TYPE_CHECKING:
    from contex import Durability, NewEvent

_READ_BYTES = 256 * 1024
_BATCH_EVENTS = 256
_BATCH_BYTES = 1024 * 1024
"""A batch is closed at either bound; the API allows 1,000 events and 8 MiB."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events to publish together, and the lines they come from."""

    events: list[NewEvent]
    first_line: int
    last_line: int
    size_bytes: int


async def publish_lines(
    source: str,
    durability: Durability | None,
    publisher: str,
    project: str,
    target: str,
    timeout: float,
    as_json: bool,
) -> ExitCode:
    """Publishes every line of a file, or of stdin, and prints totals.

    A line that can't be read ends it, after what came before has been published.
    """
    descriptor = _open(source)
    sent: deque[Batch] = deque()
    unreadable: list[InputError] = []

    async def drafts() -> AsyncIterator[list[NewEvent]]:
        try:
            async for batch in batches(descriptor):
                sent.append(batch)
                yield batch.events
        except InputError as error:
            unreadable.append(error)

    code = ExitCode.OK
    refused = published_batches = published = 0
    last_sequence = ""
    with Progress("published", shown=not as_json, total_bytes=_size(descriptor)) as progress:
        async with (
            options.connect(target, timeout, publisher) as client,
            client.publish_stream(project, drafts(), durability=durability) as results,
        ):
            await client.health()  # a stream would wait for a server that was never there
            async for result in results:
                batch = sent.popleft()
                if result.error is not None:
                    refused += len(batch.events)
                    code = code or exit_code(result.error)
                    lines = f"lines {batch.first_line}-{batch.last_line}"
                    complain(f"{lines} refused: {describe(result.error)}")
                    continue
                published += len(batch.events)
                published_batches += 1
                last_sequence = result.receipts[-1].sequence
                progress.advance(len(batch.events), batch.size_bytes)
    for error in unreadable:
        complain(str(error))
        code = code or ExitCode.USAGE
    if as_json:
        print_json(
            {
                "published": published,
                "batches": published_batches,
                "refused": refused,
                "last_sequence": last_sequence,
                "seconds": round(progress.seconds, 3),
            }
        )
    else:
        print_line(f"published {published:,}  refused {refused:,}  up to {last_sequence or '-'}")
    return code


def _open(source: str) -> int:
    if source == "-":
        return sys.stdin.fileno()
    try:
        return os.open(source, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"can't read {source!r}: {error.strerror}") from None


def _size(descriptor: int) -> int | None:
    status = os.fstat(descriptor)
    return status.st_size if stat.S_ISREG(status.st_mode) else None


async def batches(descriptor: int) -> AsyncIterator[Batch]:
    """Batches of what has arrived: a slow pipe is published line by line, a file in big pieces."""
    tail = b""
    number = 0
    while chunk := await _read(descriptor):
        *lines, tail = (tail + chunk).split(b"\n")
        for batch in pack(lines, number):
            yield batch
        number += len(lines)
    if tail:
        for batch in pack([tail], number):
            yield batch


def pack(lines: list[bytes], before: int) -> Iterator[Batch]:
    """Splits lines into batches; `before` is the number of lines before the first.

    Raises:
        InputError: A line can't be published; what is before it has been yielded.
    """
    events: list[NewEvent] = []
    size_bytes = 0
    first = before + 1
    for number, line in enumerate(lines, before + 1):
        if events and (len(events) == _BATCH_EVENTS or size_bytes + len(line) > _BATCH_BYTES):
            yield Batch(events, first, number - 1, size_bytes)
            events, size_bytes, first = [], 0, number
        try:
            event = parse_line(line)
        except InputError as error:
            if events:
                yield Batch(events, first, number - 1, size_bytes)
            raise InputError(f"line {number}: {error}") from None
        size_bytes += len(line) + 1
        if event is not None:
            events.append(event)
    if events:
        yield Batch(events, first, before + len(lines), size_bytes)


async def _read(descriptor: int) -> bytes:
    """Reads what there is, at most `_READ_BYTES`; empty at the end.

    In a daemon thread of its own: a pool's thread would have to be waited for after Ctrl-C, until
    somebody closes the pipe.
    """
    loop = asyncio.get_running_loop()
    read: asyncio.Future[bytes] = loop.create_future()

    def settle(data: bytes, error: OSError | None) -> None:
        if read.done():
            return
        if error is not None:
            read.set_exception(InputError(f"can't read on: {error.strerror}"))
        else:
            read.set_result(data)

    def work() -> None:
        data, failure = b"", None
        try:
            data = os.read(descriptor, _READ_BYTES)
        except OSError as error:
            failure = error
        # The loop may be closed by now, after Ctrl-C.
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, data, failure)

    threading.Thread(target=work, daemon=True).start()
    return await read
