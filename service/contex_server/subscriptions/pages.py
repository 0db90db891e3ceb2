"""Reading a range of the log page by page, the next page fetched while one is in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import NamedTuple

from contex_server.errors import ContexError, Reason
from contex_server.log.port import Bounds, EventLog
from contex_server.model import BEGINNING, Entry, Sequence

_FIRST_PAGE = 64
_PAGE_BYTES = 1024 * 1024


class Page(NamedTuple):
    """Some consecutive events of a range.

    Attributes:
        entries: In the order of reading; may be empty on the last page.
        last: Whether the range held no more when this page was read.
    """

    entries: list[Entry]
    last: bool


async def pages(
    log: EventLog,
    project: str,
    after: Sequence,
    until: Sequence,
    *,
    backwards: bool = False,
    max_events: int,
) -> AsyncGenerator[Page, None]:
    """Reads (after, until] until it is exhausted.

    Page sizes adapt to the events, so that about 1 MiB is held at a time, and twice that
    with the page that is fetched ahead.
    """

    async def fetch(after: Sequence, until: Sequence, count: int) -> list[Entry]:
        if backwards:
            return await log.read_back(project, until, after, count)
        return await log.read(project, after, until, count)

    count = min(_FIRST_PAGE, max_events)
    ahead = asyncio.create_task(fetch(after, until, count))
    try:
        while True:
            entries = await ahead
            last = len(entries) < count
            if not last:
                size = sum([len(body) for _, body in entries]) // len(entries) + 64
                count = max(1, min(max_events, _PAGE_BYTES // size, count * 8))
                edge = entries[-1].sequence
                if backwards:
                    if edge == BEGINNING.next():
                        last = True
                    else:
                        until = edge.prev()
                else:
                    after = edge
            if last:
                yield Page(entries, last=True)
                return
            ahead = asyncio.create_task(fetch(after, until, count))
            yield Page(entries, last=False)
    finally:
        ahead.cancel()
        await asyncio.gather(ahead, return_exceptions=True)


def check_readable(bounds: Bounds, position: Sequence) -> None:
    """Refuses a position that has no gapless continuation.

    Raises:
        ContexError: SEQUENCE_TRIMMED, SEQUENCE_IN_FUTURE.
    """
    if position > bounds.tail:
        raise ContexError(
            Reason.SEQUENCE_IN_FUTURE,
            f"{position} is beyond the end of the log, {bounds.tail}",
            metadata={"tail_sequence": str(bounds.tail)},
        )
    # Conservative by one: a reader that stands exactly on the last trimmed event has
    # missed nothing, but that can't be told from what the store keeps.
    earliest = bounds.first or bounds.tail
    if bounds.trimmed and BEGINNING < position < earliest:
        raise ContexError(
            Reason.SEQUENCE_TRIMMED,
            f"events after {position} can no longer be read; the earliest is {earliest}",
            metadata={"earliest_sequence": str(earliest)},
        )
